"""Forks and answers with the child's status; the child goes on in every way it can (/WAY)."""

import os
import signal


def app(environ, start_response):
    way = environ["PATH_INFO"][1:]
    if way != "midway":
        start_response("200 OK", [("Content-Type", "text/plain")])
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        if way == "reads":
            environ["wsgi.input"].read()
        if way == "raises":
            raise RuntimeError("in the child")
        if way == "exits":
            raise SystemExit(3)
    if way == "midway":
        start_response("200 OK", [("Content-Type", "text/plain")])
    status = b"" if child == 0 else b"%d" % os.waitpid(child, 0)[1]
    return iter([status]) if way == "iterates" else [status]
