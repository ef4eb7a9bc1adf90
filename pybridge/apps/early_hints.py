"""Sends two 103s before its answer, and one after it, which must not go out."""


def app(environ, start_response):
    hints = environ.get("wsgi.early_hints", lambda headers: None)
    if environ["PATH_INFO"] == "/bad":
        try:
            hints([("Link", "a\r\nX-Injected: 1")])
        except ValueError as refused:
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [type(refused).__name__.encode()]
    hints([("Link", "</a.css>; rel=preload")])
    hints([("Link", "</b.css>; rel=preload")])
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Final", "yes")])

    def body():
        yield b"answer"
        hints([("Link", "</late.css>; rel=preload")])

    return body()
