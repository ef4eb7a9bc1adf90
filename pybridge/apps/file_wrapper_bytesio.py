"""wsgi.file_wrapper over what is no file, in blocks of 7; it must be closed (/closed)."""

import io

CLOSED = []


class Closing(io.BytesIO):
    def close(self):
        CLOSED.append(1)
        super().close()


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    if environ["PATH_INFO"] == "/closed":
        return [b"%d" % len(CLOSED)]
    return environ["wsgi.file_wrapper"](Closing(b"0123456789" * 1000), 7)
