"""The app returns a tuple."""


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return b"one ", b"two"
