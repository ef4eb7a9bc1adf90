"""Sends back X-Canary and the body, after MS milliseconds of sleep (/MS)."""

import os
import time


def app(environ, start_response):
    time.sleep(int(environ["PATH_INFO"][1:] or 0) / 1000)
    canary = environ["HTTP_X_CANARY"]
    answer = canary.encode() + b"|" + environ["wsgi.input"].read(-1)
    headers = [("Content-Length", str(len(answer))), ("X-Canary", canary)]
    start_response("200 OK", [*headers, ("X-Pid", str(os.getpid()))])
    return [answer]
