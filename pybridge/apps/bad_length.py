"""The app's own Content-Length is no number, or (a comma in the path) there are two."""


def app(environ, start_response):
    lengths = environ["PATH_INFO"][1:].split(",")
    start_response("200 OK", [("Content-Length", length) for length in lengths])
    return [b"hello"]
