"""The app ruins its environ; the next request must not notice."""


def app(environ, start_response):
    found = b"stale" if "leaked" in environ else b"fresh"
    environ.clear()
    environ["leaked"] = environ["wsgi.version"] = "yes"
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [found]
