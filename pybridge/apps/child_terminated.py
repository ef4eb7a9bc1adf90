"""Ends a child program by SIGTERM and one by SIGINT; the signals that ended them."""

import signal
import subprocess


def app(environ, start_response):
    ended = []
    for number in (signal.SIGTERM, signal.SIGINT):
        child = subprocess.Popen(["sleep", "60"])
        child.send_signal(number)
        ended.append(str(-child.wait()))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [" ".join(ended).encode()]
