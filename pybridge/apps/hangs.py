"""Hangs until its time is over: /lock takes a lock twice, /spin computes, /nap sleeps in Python."""

import threading
import time

import gophersnake

LOCK = threading.Lock()


def app(environ, start_response):
    way = environ["PATH_INFO"]
    try:
        if way == "/lock":
            with LOCK:
                LOCK.acquire()
        while way == "/spin":
            pass
        while way == "/nap":
            time.sleep(0.01)
    except gophersnake.RequestTimeout as error:
        print("timed out:", error, flush=True)
        raise
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [way.encode()]
