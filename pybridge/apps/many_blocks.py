"""N blocks of one byte each (/N), fewer than Content-Length says with ?short."""


def app(environ, start_response):
    count = int(environ["PATH_INFO"][1:])
    length = count + bool(environ["QUERY_STRING"])
    start_response("200 OK", [("Content-Length", str(length))])
    for _ in range(count):
        yield b"x"
