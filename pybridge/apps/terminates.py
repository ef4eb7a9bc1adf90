"""SIGTERM ends the app's own children: a forked one, and another program."""

import multiprocessing
import subprocess
import sys
import time


def app(environ, start_response):
    forked = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    forked.start()
    forked.terminate()
    forked.join(5)
    other = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
    other.terminate()
    other.wait(5)
    said = f"{forked.exitcode} {other.returncode}"
    forked.kill()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [said.encode()]
