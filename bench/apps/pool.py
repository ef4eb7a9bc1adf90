"""The app of `bench pool`: computes or sleeps for about as long as the path says."""

import time

# A thousand of these steps are about 31 µs of a core at CPython 3.11.
STEPS = {"/cpu100us": 3_200, "/cpu1ms": 32_000}
SECONDS = {"/sleep10ms": 0.010, "/sleep200ms": 0.200}


def app(environ, start_response):
    path = environ["PATH_INFO"]
    body = b"Hello, World!"
    if path in STEPS:
        total = 0
        for step in range(STEPS[path]):
            total += step & 3
        body = b"%d" % total
    elif path in SECONDS:
        time.sleep(SECONDS[path])
        body = b"slept"
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
