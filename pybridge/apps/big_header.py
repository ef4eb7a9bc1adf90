"""One header of 64 KiB: whole, or 500."""


def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "3"), ("X-Big", "b" * 65536)])
    return [b"big"]
