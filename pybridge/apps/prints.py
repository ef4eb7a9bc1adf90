"""print() and sys.stderr of the app reach the log."""

import sys


def app(environ, start_response):
    print("prints: to stdout", flush=True)
    print("prints: to stderr", file=sys.stderr, flush=True)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"printed"]
