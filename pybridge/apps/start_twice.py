"""A second start_response without exc_info: the app sees an error, and so does the client."""


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    start_response("201 Created", [("Content-Type", "text/plain")])
    return [b"twice"]
