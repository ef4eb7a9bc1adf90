"""SHA-256 of the body read in pieces; and of its file, by fileno(), or a dash without one."""

import hashlib
import io
import os


def app(environ, start_response):
    stream, whole = environ["wsgi.input"], hashlib.sha256()
    for block in iter(lambda: stream.read(50_000), b""):
        whole.update(block)
    try:
        fd = stream.fileno()
    except (OSError, AttributeError, io.UnsupportedOperation):
        by_file = "-"
    else:
        twin = hashlib.sha256()
        for offset in range(0, os.fstat(fd).st_size, 50_000):
            twin.update(os.pread(fd, 50_000, offset))
        by_file = twin.hexdigest()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [" ".join((environ["CONTENT_LENGTH"], whole.hexdigest(), by_file)).encode()]
