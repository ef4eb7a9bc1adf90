"""Set-Cookie lines stay apart and in order: two, or (/many) 50 of 1,000 bytes."""


def app(environ, start_response):
    cookies = [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]
    if environ["PATH_INFO"] == "/many":
        cookies = [("Set-Cookie", f"c{i}=" + chr(97 + i % 26) * 1000) for i in range(50)]
    fields = [("Content-Type", "text/plain"), ("Content-Length", "7")]
    start_response("200 OK", fields + cookies)
    return [b"cookies"]
