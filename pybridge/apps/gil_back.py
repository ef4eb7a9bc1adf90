"""Looks like a free-threaded Python in which an import of the app has turned the GIL on."""

import sys

sys.abiflags = "t"
sys._is_gil_enabled = lambda: True


def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"one at a time"]
