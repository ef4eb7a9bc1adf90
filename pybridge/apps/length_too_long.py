"""More bytes than Content-Length says: cut there."""


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "3")])
    yield b"he"
    yield b"llo"
    yield b"EXTRA"
