"""Counts close() of its results (/count tells); the path says how a result ends."""

COUNTS = {"made": 0, "closed": 0}


class Result:
    def __init__(self, path):
        self.path = path
        COUNTS["made"] += 1

    def __iter__(self):
        for number in range({"/endless": 10**9, "/204": 0}.get(self.path, 1)):
            yield b"x" * 65536
        if self.path == "/raises":
            raise ValueError("as asked")

    def close(self):
        COUNTS["closed"] += 1


def app(environ, start_response):
    path = environ["PATH_INFO"]
    start_response("204 No Content" if path == "/204" else "200 OK", [])
    return [str(COUNTS).encode()] if path == "/count" else Result(path)
