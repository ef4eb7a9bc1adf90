"""The app runs another program and reads its output."""

import subprocess
import sys


def app(environ, start_response):
    said = subprocess.check_output([sys.executable, "-S", "-c", "print('sub')"])
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [said.strip()]
