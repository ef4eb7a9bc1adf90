"""wsgi.file_wrapper with a Content-Length below the file's size: it stops there."""


def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "10")])
    return environ["wsgi.file_wrapper"](open(__file__, "rb"))
