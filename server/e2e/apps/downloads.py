"""Answers that are files or slow streams.

/file/OFFSET    $DOWNLOAD_FILE by wsgi.file_wrapper, from OFFSET; ?N is the Content-Length
/gzip           the file inside a gzip file, which has a descriptor but other bytes
/text           the file opened as text; /bytesio: its bytes in memory; /pipe: through a pipe
/timed/N        N lines, one in 200 ms, each the time it was made; /written/N by write()
/big/N          N blocks of 64 KiB by a generator; N = 0 has no end
/counts         generators of /big begun, finished and closed, and blocks made
"""

import gzip
import io
import itertools
import json
import os
import time

PATH = os.environ.get("DOWNLOAD_FILE", __file__)
COUNTS = {"begun": 0, "finished": 0, "closed": 0, "blocks": 0}
BLOCK = bytes(range(256)) * 256


def stamps(number):
    for _ in range(number):
        time.sleep(0.2)
        yield b"%d\n" % time.time_ns()


def blocks(number):
    COUNTS["begun"] += 1
    try:
        for _ in range(number) if number else itertools.count():
            COUNTS["blocks"] += 1
            yield BLOCK
        COUNTS["finished"] += 1
    finally:
        COUNTS["closed"] += 1


def pipe():
    out, into = os.pipe()
    os.write(into, BLOCK[:40000])
    os.close(into)
    return open(out, "rb")


def opened(what, offset):
    if what == "file":
        file = open(PATH, "rb")
        file.read(offset)  # buffered: the descriptor is further on than the file
        return file
    if what == "gzip":
        return gzip.open(PATH + ".gz")
    if what == "text":
        return open(__file__)
    return pipe() if what == "pipe" else io.BytesIO(BLOCK)


def app(environ, start_response):
    _, what, *more = environ["PATH_INFO"].split("/")
    number = int(more[0]) if more else 0
    length = environ["QUERY_STRING"]
    headers = [("Content-Type", "application/octet-stream")]
    write = start_response("200 OK", headers + [("Content-Length", length)] * bool(length))
    if what == "counts":
        return [json.dumps(COUNTS).encode()]
    if what == "big":
        return blocks(number)
    if what == "timed":
        return stamps(number)
    if what == "written":
        for stamp in stamps(number):
            write(stamp)
        return []
    return environ["wsgi.file_wrapper"](opened(what, number), 8192)
