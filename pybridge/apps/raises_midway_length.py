"""The result raises after its first block, with a Content-Length."""


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "50")])
    yield b"part"
    raise ValueError("secret of raises_midway_length")
