"""The app that every server runs, as `app`: plain WSGI, standard library only.

Each path of `ROUTES` is a workload; what it answers is written down again in workloads.go,
which checks it before and after the load.
"""

import json
import time

TEXT = [("Content-Type", "text/plain")]
JSON = [("Content-Type", "application/json")]

# What `cpu` counts to: about 5 ms of a core at CPython 3.11.
CPU_STEPS = 160_000


def fixed(body, kind="text/plain"):
    headers = [("Content-Type", kind), ("Content-Length", str(len(body)))]
    chunks = [body]

    def answer(environ, start_response):
        start_response("200 OK", headers)
        return chunks

    return answer


def slept(seconds):
    body = b"slept"
    headers = TEXT + [("Content-Length", str(len(body)))]

    def answer(environ, start_response):
        time.sleep(seconds)
        start_response("200 OK", headers)
        return [body]

    return answer


def read_body(environ):
    """A chunked body has no length in some servers, and a server may hide that it was chunked."""
    length = environ.get("CONTENT_LENGTH")
    if length:
        return environ["wsgi.input"].read(int(length))
    if environ["REQUEST_METHOD"] == "POST":
        return environ["wsgi.input"].read()
    return b""


def send(body, headers, start_response):
    start_response("200 OK", headers + [("Content-Length", str(len(body)))])
    return [body]


def dumped(environ, start_response):
    body = json.dumps({"message": "Hello, World!"}).encode()
    return send(body, JSON, start_response)


def summed(environ, start_response):
    """The sum of the query's values and of the body, if there is one."""
    total = 0
    for pair in environ.get("QUERY_STRING", "").split("&"):
        total += int(pair.partition("=")[2] or 0)
    total += int(read_body(environ) or 0)
    return send(b"%d" % total, TEXT, start_response)


def echo(environ, start_response):
    return send(read_body(environ), TEXT, start_response)


def count(environ, start_response):
    """Reads the body in pieces and answers its length."""
    total, left = 0, int(environ.get("CONTENT_LENGTH") or 0)
    while left > 0:
        piece = environ["wsgi.input"].read(min(left, 65536))
        if not piece:
            break
        total += len(piece)
        left -= len(piece)
    return send(b"%d" % total, TEXT, start_response)


def cpu(environ, start_response):
    total = 0
    for step in range(CPU_STEPS):
        total += step & 3
    return send(b"%d" % total, TEXT, start_response)


def download(environ, start_response):
    """100 MB in pieces of 64,000 bytes."""
    piece, pieces = b"x" * 64_000, 1_600
    start_response("200 OK", TEXT + [("Content-Length", str(len(piece) * pieces))])
    return (piece for _ in range(pieces))


class Closing:
    """What `/closing` returns: tells `/closed` how often a server was done with it."""

    closed = 0

    def __iter__(self):
        return iter([b"closing"])

    def close(self):
        Closing.closed += 1


def closing(environ, start_response):
    start_response("200 OK", TEXT + [("Content-Length", "7")])
    return Closing()


def closed(environ, start_response):
    return send(b"%d" % Closing.closed, TEXT, start_response)


ROUTES = {
    "/": fixed(b"Hello, World!"),
    "/1k": fixed(b"x" * 1_000),
    "/10k": fixed(b"x" * 10_000),
    "/100k": fixed(b"x" * 100_000),
    "/json": dumped,
    "/sum": summed,
    "/echo": echo,
    "/count": count,
    "/download": download,
    "/cpu": cpu,
    "/closing": closing,
    "/closed": closed,
    "/io1": slept(0.001),
    "/io10": slept(0.010),
    "/io100": slept(0.100),
    "/io200": slept(0.200),
}


def app(environ, start_response):
    route = ROUTES.get(environ["PATH_INFO"])
    if route is None:
        start_response("404 Not Found", TEXT + [("Content-Length", "0")])
        return []
    return route(environ, start_response)


application = app
