"""The headers are not a list (PEP 3333: it must be one): None, a dict, a tuple."""

HEADERS = {"/none": None, "/dict": {"X-A": "a"}, "/tuple": (("X-A", "a"),)}


def app(environ, start_response):
    start_response("200 OK", HEADERS[environ["PATH_INFO"]])
    return [b"accepted"]
