"""PEP 3333: of the result, nothing but __iter__, __len__ and close may be used."""

SEEN = set()


class Watched:
    def __iter__(self):
        return iter([b"watched"])

    def __getattr__(self, name):
        SEEN.add(name)
        raise AttributeError(name)


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    if environ["PATH_INFO"] == "/seen":
        return [repr(sorted(SEEN - {"close"})).encode()]
    return Watched()
