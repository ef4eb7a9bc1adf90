"""close() takes its time after the answer is whole: the client need not wait for it."""

import time


class Result:
    def __iter__(self):
        return iter([b"whole"])

    def close(self):
        time.sleep(0.3)


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return Result()
