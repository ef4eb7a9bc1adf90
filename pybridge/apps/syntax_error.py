"""The module does not parse."""


def app(environ, start_response:
    return []
