"""Yields blocks that each wait for the client: /next lets the next one go."""

import threading

GATE = threading.Semaphore(0)


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    if environ["PATH_INFO"] == "/next":
        GATE.release()
        return [b"released"]
    return blocks()


def blocks():
    for number in range(4):
        yield b"block %d\n" % number
        GATE.acquire(timeout=20)
