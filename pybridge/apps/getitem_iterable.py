"""The result is iterable by the old protocol: __getitem__ until IndexError."""


class Old:
    def __getitem__(self, index):
        return (b"old ", b"protocol")[index]


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return Old()
