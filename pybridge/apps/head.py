"""Answers HEAD as it answers GET, with or (/unknown) without a Content-Length."""


def app(environ, start_response):
    headers = [("Content-Type", "text/plain"), ("X-Method", environ["REQUEST_METHOD"])]
    if environ["PATH_INFO"] != "/unknown":
        headers.append(("Content-Length", "5"))
    start_response("200 OK", headers)
    yield b"he"
    yield b"llo"
