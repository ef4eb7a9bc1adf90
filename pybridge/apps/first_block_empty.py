"""b"" is no data: after it the headers are not out yet, and exc_info still replaces them."""

import sys


def app(environ, start_response):
    start_response("200 OK", [("X-Old", "1")])
    yield b""
    try:
        raise ValueError("before data")
    except ValueError:
        start_response("503 Late", [("Content-Length", "4")], sys.exc_info())
    yield b"late"
