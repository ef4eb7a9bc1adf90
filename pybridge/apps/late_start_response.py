"""start_response is called in the first next() only."""


class Late:
    def __init__(self, start_response):
        self.start_response = start_response
        self.blocks = iter([b"la", b"te"])

    def __iter__(self):
        return self

    def __next__(self):
        if self.start_response:
            self.start_response("200 OK", [("Content-Type", "text/plain")])
            self.start_response = None
        return next(self.blocks)


def app(environ, start_response):
    return Late(start_response)
