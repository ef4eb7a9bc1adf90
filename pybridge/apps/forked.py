"""A worker that a template forked: its number, the fork functions that ran, and who imported it."""

import os
import random

ran = []


def in_child():
    ran.append("child")
    print("forked: in the child", flush=True)


os.register_at_fork(
    before=lambda: ran.append("before"),
    after_in_parent=lambda: ran.append("parent"),
    after_in_child=in_child,
)
importer = os.getpid()


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    number = os.environ["GOPHERSNAKE_WORKER"]
    return [f"{number} {','.join(ran)} {importer} {random.random()}".encode()]
