"""One measurement, in the interpreter under test: serve.py shim|bare SHIM BOOT BATCHES

Started by cost.py with drive.c preloaded. `shim` runs boot.py as a worker does, on a region that
drive.c has made and with its requests; `bare` has C call the app in a loop. Prints what was
measured and the nanoseconds a request: the median of the batches, and the least.
"""

import ctypes
import os
import socket
import sys
import types

HEADERS = [("Content-Type", "text/plain"), ("Content-Length", "13")]
BODY = [b"Hello, World!"]

# What a browser sends, ten fields.
FIELDS = {
    "Host": "www.example.com",
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Accept-Language": "en-GB,en;q=0.5",
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "Cookie": "session=6f1c2c0f4d3f4a1f8c55d8a6a2d7e0b9; theme=dark",
    "Upgrade-Insecure-Requests": "1",
    "Sec-Fetch-Dest": "document",
    "Sec-Fetch-Mode": "navigate",
    "X-Forwarded-For": "203.0.113.7",
}


def app(environ, start_response):
    start_response("200 OK", HEADERS)
    return BODY


class Settings(dict):
    """What boot.py asks for; what is not named here is off."""

    def __missing__(self, key):
        return 0


def worker_descriptors(drive, shim, batches):
    """Open what a worker inherits, under the numbers that boot.py knows."""
    texts = [text.encode() for pair in FIELDS.items() for text in pair]
    fields = (ctypes.c_char_p * (len(texts) + 2))(*texts, None, None)
    control, parent = socket.socketpair()
    doorbell, loop = socket.socketpair()
    # High numbers first: the low ones may be in use already.
    parent_fd = os.dup2(parent.fileno(), 100)
    region = drive.drive_prepare(fields, batches, parent_fd)
    found = [os.open(shim, os.O_RDONLY), region, control.fileno(), doorbell.fileno()]
    high = [os.dup2(fd, 101 + i) for i, fd in enumerate(found)]
    for fd, number in zip([*high, high[3]], (3, 5, 6, 7, 8)):
        os.dup2(fd, number)
    return control, parent, doorbell, loop  # to be kept: closing them would close our numbers


def serve(drive, shim, boot, batches):
    sources = {}
    for name in ("boot", "resolve"):
        with open(os.path.join(boot, name + ".py"), encoding="utf-8") as file:
            sources[name] = file.read()
    kept = worker_descriptors(drive, shim, batches)
    sys.modules["hello_app"] = types.ModuleType("hello_app")
    sys.modules["hello_app"].app = app
    listener = {"server_name": "localhost", "server_port": "80", "scheme": "http"}
    settings = Settings(sources, app="hello_app:app", dir=".", lanes=1, threads=1, worker=0,
                        multiprocess=False, listeners=[listener])
    code = compile(sources["boot"], "<gophersnake>", "exec")
    drive.drive_begin()
    exec(code, {"__name__": "_gophersnake_boot", "settings": settings})
    del kept


def bare(batches):
    environ = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in FIELDS.items()}
    held = ctypes.PyDLL(None)  # the GIL stays with us
    held.drive_bare.argtypes = [ctypes.py_object, ctypes.py_object, ctypes.c_uint32]
    if held.drive_bare(app, environ, batches) != 0:
        sys.exit("the app cannot be called")


def main():
    what, shim, boot, batches = sys.argv[1:]
    if what == "bare":
        bare(int(batches))
    else:
        serve(ctypes.CDLL(None), shim, boot, int(batches))


main()
