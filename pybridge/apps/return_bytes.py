"""The app returns bytes instead of an iterable of bytes, whose items are numbers."""


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return b"bytes"
