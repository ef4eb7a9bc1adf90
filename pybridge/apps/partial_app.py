"""The app is a callable made in C."""

import functools


def serve(text, environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [text]


app = functools.partial(serve, b"partial")
