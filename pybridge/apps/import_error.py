"""The module needs another one that is not installed."""

import a_package_nobody_has  # noqa: F401


def app(environ, start_response):
    return []
