"""Hangs until its time is over: /lock takes a lock twice, /spin computes, /nap sleeps in Python."""

import threading
import time

import gophersnake

LOCK = threading.Lock()
WAYS = {"/lock": LOCK.acquire, "/spin": int, "/nap": lambda: time.sleep(0.01)}


def hang(way):
    while way in WAYS:
        WAYS[way]()


def app(environ, start_response):
    way = environ["PATH_INFO"]
    try:
        hang(way)
    except gophersnake.RequestTimeout as error:
        print(f"timed out in {way}: {error}", flush=True)
        raise
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [way.encode()]
