"""/N/M: N blocks of M bytes, each filled with its own number."""


def app(environ, start_response):
    blocks, size = map(int, environ["PATH_INFO"][1:].split("/"))
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return (bytes([number % 256]) * size for number in range(blocks))
