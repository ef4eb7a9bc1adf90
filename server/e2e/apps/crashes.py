"""Ways to go wrong, beside what faults.py serves.

/segfault /abort /os-exit     the process ends
/exit /recursion /memory      the app raises
/deadlock                     a thread waits for itself
/hog/MS                       C code keeps the GIL so long
"""

import ctypes
import os
import sys
import threading

import faults

LOCK = threading.Lock()


def recurse():
    return recurse()


def deadlock():
    with LOCK:
        LOCK.acquire()


WAYS = {
    "segfault": lambda: ctypes.string_at(0),
    "abort": os.abort,
    "os-exit": lambda: os._exit(3),
    "exit": lambda: sys.exit(3),
    "recursion": recurse,
    "memory": lambda: bytes(1 << 62),
    "deadlock": deadlock,
}


def app(environ, start_response):
    _, what, *more = environ["PATH_INFO"].split("/")
    if what in WAYS:
        WAYS[what]()
    if what == "hog":
        ctypes.PyDLL(None).usleep(1000 * int(more[0]))
        environ["PATH_INFO"] = "/echo"
    return faults.app(environ, start_response)
