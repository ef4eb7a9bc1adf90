"""close() of a result whose iteration ends badly, by the path; /counts tells how often."""

COUNTS = {"made": 0, "closed": 0}


class Result:
    def __init__(self, path, start_response):
        self.path, self.start_response = path, start_response
        COUNTS["made"] += 1

    def __iter__(self):
        self.start_response("bad" if self.path == "/status" else "200 OK", [])
        while True:
            yield "text" if self.path == "/str" else b"x" * 65536

    def close(self):
        COUNTS["closed"] += 1
        print("close_always: closed", flush=True)


def app(environ, start_response):
    if environ["PATH_INFO"] != "/counts":
        return Result(environ["PATH_INFO"], start_response)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return ["{made} {closed}".format(**COUNTS).encode()]
