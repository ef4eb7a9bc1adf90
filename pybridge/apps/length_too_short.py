"""Fewer bytes than Content-Length says: the client must be able to tell."""


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "50")])
    yield b"hello"
