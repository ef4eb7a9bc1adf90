"""Says so in the log, then answers its pid after MS milliseconds of sleep (/MS)."""

import os
import time


def app(environ, start_response):
    print("sleeps: begun", file=environ["wsgi.errors"], flush=True)
    time.sleep(int(environ["PATH_INFO"][1:] or 0) / 1000)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%d" % os.getpid()]
