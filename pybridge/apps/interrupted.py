"""/c answers without a step of Python code at its end; /python takes many and tells of hits."""

import time
import zlib

BLOB = bytes(200000)


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    if environ["PATH_INFO"] == "/c":
        return map(zlib.compress, [BLOB])  # without the GIL, for about a millisecond
    try:
        for _ in range(100):
            time.sleep(0)  # lets go of the GIL
    except BaseException as error:
        return [repr(error).encode()]
    return [b"not hit"]
