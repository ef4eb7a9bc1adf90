"""The app changes its list of headers after start_response: the answer has the old ones."""


def app(environ, start_response):
    headers = [("Content-Type", "text/plain"), ("X-Before", "1")]
    start_response("200 OK", headers)
    headers[1] = ("X-After", "2")
    headers.append(("X-Appended", "3"))
    return [b"mutated"]
