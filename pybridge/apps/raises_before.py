"""The app raises before it calls start_response."""


def app(environ, start_response):
    raise ValueError("secret of raises_before")
