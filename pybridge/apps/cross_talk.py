"""Sends back all that a request carries, and filler: /CANARY/SIZE/HOW is list, stream or write."""


def app(environ, start_response):
    _, canary, size, how = environ["PATH_INFO"].split("/")
    names = ["REQUEST_METHOD", "PATH_INFO", "QUERY_STRING", "HTTP_X_CANARY", "HTTP_COOKIE"]
    seen = "\n".join(environ[name] for name in names).encode()
    filler = (canary.encode() * (int(size) // len(canary) + 1))[: int(size)]
    answer = b"\n".join([seen, environ["wsgi.input"].read(), filler])
    headers = [("X-Canary", environ["HTTP_X_CANARY"]), ("Set-Cookie", environ["HTTP_COOKIE"])]
    if how == "list":
        headers.append(("Content-Length", str(len(answer))))
    write = start_response("200 OK", headers)
    if how == "stream":
        return (answer[at : at + 9000] for at in range(0, len(answer), 9000))
    if how == "write":
        write(answer)
        return []
    return [answer]
