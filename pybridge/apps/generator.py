"""The app is a generator function: nothing of it runs before the first next()."""


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield b"abc"
    yield b""
    yield b"def"
