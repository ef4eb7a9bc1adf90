"""atexit handlers run when the worker is told to stop; this one's word is in the log."""

import atexit
import sys

atexit.register(print, "at_exit: ran", file=sys.stderr, flush=True)


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"registered"]
