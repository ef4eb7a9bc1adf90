"""Yields what is no bytes: /bytearray, /memoryview, /int, /list."""

BLOCKS = {"/bytearray": bytearray(b"x"), "/memoryview": memoryview(b"x"), "/int": 7, "/list": []}


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [BLOCKS[environ["PATH_INFO"]]]
