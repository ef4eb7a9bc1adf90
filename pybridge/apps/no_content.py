"""204 with a body and (/length) a Content-Length, neither of which may be sent."""


def app(environ, start_response):
    extra = [("Content-Length", "5")] if environ["PATH_INFO"] == "/length" else []
    start_response("204 No Content", [("X-Kept", "1"), *extra])
    return [b"hello"]
