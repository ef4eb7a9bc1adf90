"""/hold waits until the FIFO $GATE was opened and closed by a writer. Every path answers the pid
and the paths that were served before, a line each; the query adds nothing to them."""

import os

SERVED = []


def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/hold":
        print("gates: held", file=environ["wsgi.errors"], flush=True)
        with open(os.environ["GATE"]) as gate:
            gate.read()
    start_response("200 OK", [("Content-Type", "text/plain")])
    answer = "\n".join([str(os.getpid()), *SERVED])
    SERVED.append(path)
    return [answer.encode()]
