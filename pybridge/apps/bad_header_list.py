"""The headers are not a list (PEP 3333: it must be one), or its items are no tuples."""


class Subclass(list):
    pass


PAIR = ("X-A", "a")
HEADERS = {"/none": None, "/dict": {"X-A": "a"}, "/tuple": (PAIR,), "/lists": [list(PAIR)]}
HEADERS["/subclass"] = Subclass([PAIR])


def app(environ, start_response):
    start_response("200 OK", HEADERS[environ["PATH_INFO"]])
    return [b"accepted"]
