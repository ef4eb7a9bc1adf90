"""/hints sends a 103 and hangs; /stream begins in time and takes two seconds; / answers at once."""

import time


def stream():
    for _ in range(20):
        time.sleep(0.1)
        yield b"x" * 100


def app(environ, start_response):
    if environ["PATH_INFO"] == "/hints":
        environ["wsgi.early_hints"]([("Link", "</a.css>; rel=preload")])
        while True:
            time.sleep(0.01)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return stream() if environ["PATH_INFO"] == "/stream" else [b"at once"]
