"""Sends the body back; /chunks reads it 1,000 bytes at a time, /lines line by line."""


def app(environ, start_response):
    stream, path = environ["wsgi.input"], environ["PATH_INFO"]
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    if path == "/chunks":
        return iter(lambda: stream.read(1000), b"")
    return iter(stream) if path == "/lines" else [stream.read(-1)]
