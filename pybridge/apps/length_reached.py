"""Content-Length 3: /iterated has no end but for it, /written must hear of a byte too much."""

SAID = []


def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/said":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [",".join(SAID).encode()]
    write = start_response("200 OK", [("Content-Length", "3")])
    if path == "/iterated":
        return iter(lambda: b"ab", None)
    write(b"abc")
    try:
        write(b"d")
    except ValueError:
        SAID.append("refused")
    return []
