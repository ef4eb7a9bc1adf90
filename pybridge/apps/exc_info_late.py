"""exc_info after data went out: start_response raises that exception again."""

import sys


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield b"part"
    try:
        raise ValueError("too late")
    except ValueError:
        start_response("500 Oops", [("Content-Type", "text/plain")], sys.exc_info())
    yield b"never"
