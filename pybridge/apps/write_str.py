"""write() is given a str: the app sees the error, before anything was sent."""


def app(environ, start_response):
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    try:
        write("text")
    except Exception as exc:
        return [type(exc).__name__.encode()]
    return [b"accepted"]
