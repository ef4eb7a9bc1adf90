"""A second start_response without exc_info is fatal, also after the first one has raised."""


def app(environ, start_response):
    try:
        start_response("200 OK", [("X-Bad", "a\nb")])
    except ValueError:
        start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"never"]
