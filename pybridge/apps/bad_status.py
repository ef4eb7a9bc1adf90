"""The status is wrong; the path says how. The app sees the error when it calls."""

STATUSES = {
    "/int": 200,
    "/bytes": b"200 OK",
    "/none": None,
    "/letters": "abc",
    "/empty": "",
    "/short": "20 OK",
    "/long": "2000 OK",
    "/crlf": "200 OK\r\nX-Injected: 1",
    "/nul": "200 O\0K",
    "/interim": "100 Continue",
    "/digits": "\u0662\u0660\u0660 OK",
    "/wide": "200 \u20ac",
}


def app(environ, start_response):
    start_response(STATUSES[environ["PATH_INFO"]], [("Content-Type", "text/plain")])
    return [b"accepted"]
