"""The result raises after its first block, without a Content-Length."""


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield b"part"
    raise ValueError("secret of raises_midway")
