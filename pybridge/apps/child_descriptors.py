"""The descriptors above 2 that a child program has, though it is asked to inherit all."""

import subprocess


def app(environ, start_response):
    shell = "for fd in /proc/self/fd/*; do readlink $fd; done | cat"
    shown = subprocess.run(["sh", "-c", shell], close_fds=False, stdout=subprocess.PIPE).stdout
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [shown]
