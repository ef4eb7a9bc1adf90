"""Says so in the log, then sleeps for a minute in C code that keeps the GIL."""

import ctypes


def app(environ, start_response):
    print("holds_gil: begun", file=environ["wsgi.errors"], flush=True)
    ctypes.PyDLL(None).sleep(60)
    start_response("200 OK", [])
    return []
