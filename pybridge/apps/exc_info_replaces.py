"""exc_info before any data: status and all headers are replaced."""

import sys


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/html"), ("X-Old", "1")])
    try:
        raise ValueError("replaced")
    except ValueError:
        start_response("503 Oops", [("Content-Type", "text/plain")], sys.exc_info())
    return [b"oops"]
