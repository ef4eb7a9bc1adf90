"""The app sets what belongs to the connection; the path names the header."""


def app(environ, start_response):
    name = environ["PATH_INFO"][1:]
    start_response("200 OK", [("Content-Length", "5"), (name, "chunked")])
    return [b"hello"]
