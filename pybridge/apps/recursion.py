"""The app recurses without an end."""


def app(environ, start_response):
    return app(environ, start_response)
