"""304 with a body, which may not be sent, and headers, which must be."""


def app(environ, start_response):
    start_response("304 Not Modified", [("ETag", '"x"'), ("Cache-Control", "max-age=60")])
    return [b"hello"]
