"""The app sets Date and Server itself: neither may be sent twice."""


def app(environ, start_response):
    date = ("dATE", "Sun, 06 Nov 1994 08:49:37 GMT")
    start_response("200 OK", [date, ("server", "mine"), ("content-LENGTH", "3")])
    return [b"own"]
