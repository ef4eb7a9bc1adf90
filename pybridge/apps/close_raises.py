"""close() raises: the answer is whole, the error is in the log."""


class Result:
    def __iter__(self):
        return iter([b"whole"])

    def close(self):
        raise ValueError("raised by close")


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return Result()
