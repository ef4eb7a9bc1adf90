"""Statuses with an unusual reason: none, several words, latin-1."""

STATUSES = {
    "/none": "200",
    "/space": "200 ",
    "/words": "299 All Is Well",
    "/latin": "200 \xe9t\xe9",
}


def app(environ, start_response):
    start_response(STATUSES[environ["PATH_INFO"]], [("Content-Length", "2")])
    return [b"ok"]
