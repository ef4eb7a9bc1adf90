"""PEP 3333 "URL Reconstruction": the URL as wsgiref puts it together, and PATH_INFO in hex."""

import wsgiref.util


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    path = environ["PATH_INFO"].encode("latin-1").hex()
    return [wsgiref.util.request_uri(environ).encode() + b"\n" + path.encode()]
