"""A generator that forks between two blocks; the parent answers with the child's status."""

import os
import signal


def app(environ, start_response):
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    yield b"status "
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        if environ["PATH_INFO"] == "/writes":
            write(b"child")
        yield b"child"
        return
    yield b"%d" % os.waitpid(child, 0)[1]
