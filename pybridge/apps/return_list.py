"""The app returns a list of several blocks."""


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"one ", b"", b"two ", b"three"]
