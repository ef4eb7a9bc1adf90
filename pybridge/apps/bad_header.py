"""A header is wrong; the path says how. The app sees the error when it calls."""

HEADERS = {
    "/value_crlf": ("X-A", "a\r\nX-Injected: 1"),
    "/value_lf": ("X-A", "a\nX-Injected: 1"),
    "/value_nul": ("X-A", "a\0b"),
    "/value_bytes": ("X-A", b"a"),
    "/value_none": ("X-A", None),
    "/value_wide": ("X-A", "\u20ac"),
    "/name_crlf": ("X-A\r\nX-Injected", "1"),
    "/name_space": ("X A", "a"),
    "/name_colon": ("X:A", "a"),
    "/name_empty": ("", "a"),
    "/name_wide": ("X-\u20ac", "a"),
    "/three": ("X-A", "a", "b"),
    "/one": ("X-A",),
    "/number": 7,
}


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), HEADERS[environ["PATH_INFO"]]])
    return [b"accepted"]
