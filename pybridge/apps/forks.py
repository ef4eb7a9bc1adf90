"""The app forks; the child returns from the app and must not answer or live on."""

import os
import signal


def app(environ, start_response):
    pid = os.fork()
    start_response("200 OK", [("Content-Type", "text/plain")])
    if pid == 0:
        signal.alarm(10)
        return [b"child"]
    os.waitpid(pid, 0)
    return [b"parent"]
