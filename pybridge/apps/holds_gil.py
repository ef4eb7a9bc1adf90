"""Says so in the log, then keeps the GIL in C code: MS milliseconds (/MS), or a minute."""

import ctypes


def app(environ, start_response):
    print("holds_gil: begun", file=environ["wsgi.errors"], flush=True)
    ctypes.PyDLL(None).usleep(int(environ["PATH_INFO"][1:] or 60000) * 1000)
    start_response("200 OK", [])
    return []
