"""The app never calls start_response."""


def app(environ, start_response):
    return [b"no start"]
