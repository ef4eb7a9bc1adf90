"""wsgi.file_wrapper over a real file, from its start or from /OFFSET."""


def app(environ, start_response):
    file = open(__file__, "rb")
    file.seek(int(environ["PATH_INFO"][1:] or 0))
    start_response("200 OK", [("Content-Type", "text/x-python")])
    return environ["wsgi.file_wrapper"](file)
