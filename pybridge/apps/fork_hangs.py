"""A function at fork never returns in the child, which says so first."""

import os
import threading


def hang():
    print("fork_hangs: begun", flush=True)
    threading.Event().wait()


os.register_at_fork(after_in_child=hang)


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"forked"]
