"""What is served while faults happen: every answer carries its request's canary.

/echo       canary and body back
/stream     32 times the canary, as a generator that is counted
/big/N      N MiB, as the same kind of generator
/counts     generators begun and closed
/open/N     N files are opened, and stay so
"""

import threading

BLOCK = bytes(range(256)) * 256
LOCK = threading.Lock()
COUNTS = {"begun": 0, "closed": 0}
FILES = []


def count(what):
    with LOCK:
        COUNTS[what] += 1


def counted(blocks):
    count("begun")
    try:
        yield from blocks
    finally:
        count("closed")


def app(environ, start_response):
    canary = environ.get("HTTP_X_CANARY", "")
    _, what, *more = environ["PATH_INFO"].split("/")
    headers = [("Content-Type", "text/plain"), ("X-Canary", canary)]
    start_response("200 OK", headers)
    if what == "echo":
        return [canary.encode() + b"|" + environ["wsgi.input"].read(-1)]
    if what == "stream":
        return counted(canary.encode() for _ in range(32))
    if what == "big":
        return counted(BLOCK for _ in range(16 * int(more[0])))
    if what == "open":
        FILES.extend(open("/dev/null") for _ in range(int(more[0])))
    return [f"{COUNTS['begun']} {COUNTS['closed']}".encode()]
