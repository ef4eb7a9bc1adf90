"""/now reads address 0; other paths answer the pid."""

import ctypes
import os


def app(environ, start_response):
    if environ["PATH_INFO"] == "/now":
        ctypes.string_at(0)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%d" % os.getpid()]
