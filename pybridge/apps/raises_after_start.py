"""The app raises after start_response, before data."""


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Lost", "1")])
    raise ValueError("secret of raises_after_start")
