"""/watch streams until its client has closed; /noted tells how often client_disconnected saw it."""

NOTED = []


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    if environ["PATH_INFO"] == "/noted":
        return [b"%d" % NOTED.count(True)]
    return watch(environ["gophersnake.client_disconnected"])


def watch(disconnected):
    try:
        yield b"begun"
        while not disconnected():
            yield b"."
    finally:
        NOTED.append(disconnected())
