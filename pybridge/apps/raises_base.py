"""The app raises what `except Exception` may not catch; the path names it."""

import builtins


def app(environ, start_response):
    raise getattr(builtins, environ["PATH_INFO"][1:])("secret of raises_base")
