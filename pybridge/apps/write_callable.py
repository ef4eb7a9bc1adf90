"""write() sends its blocks before those of the result."""


def app(environ, start_response):
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    write(b"written ")
    write(b"")
    write(b"twice ")
    return [b"returned"]
