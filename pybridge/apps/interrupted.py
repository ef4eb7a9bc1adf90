"""/c answers without a step of Python code at its end; /python takes many and tells of hits."""

import zlib

BLOB = bytes(200000)


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    if environ["PATH_INFO"] == "/c":
        return map(zlib.compress, [BLOB])  # without the GIL, for about a millisecond
    try:
        return [b"%d" % sum(i * i for i in range(300))]
    except BaseException as error:
        return [repr(error).encode()]
