"""The app returns nothing to send, as a list or (/generator) as a generator."""


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return iter(()) if environ["PATH_INFO"] == "/generator" else []
