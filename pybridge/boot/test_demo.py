"""demo.py called directly, under wsgiref's validator.

Runs by `python3 -m unittest discover -s pybridge/boot` and by `python3 test_demo.py`.
"""

import io
import json
import os
import sys
import unittest
import wsgiref.util
import wsgiref.validate

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import demo  # noqa: E402


def ask(target, body=b"", **environ):
    """Return (status, headers, body) of one request."""
    path, _, query = target.partition("?")
    environ.update(SCRIPT_NAME="", PATH_INFO=path, QUERY_STRING=query)
    environ["CONTENT_LENGTH"] = str(len(body))
    environ["wsgi.input"] = io.BytesIO(body)
    wsgiref.util.setup_testing_defaults(environ)
    said = []

    def start_response(status, headers, exc_info=None):
        said.extend((status, dict(headers)))
        return lambda block: None

    result = wsgiref.validate.validator(demo.application)(environ, start_response)
    try:
        body = b"".join(result)
    finally:
        result.close()
    return (*said, body)


class Demo(unittest.TestCase):
    def wants(self, target, status, body):
        got_status, headers, got = ask(target)
        self.assertEqual((got_status, got), (status, body), target)
        if "Content-Length" in headers:
            self.assertEqual(headers["Content-Length"], str(len(got)), target)

    def test_fixed_answers(self):
        self.wants("/plaintext", "200 OK", b"Hello, World!")
        self.wants("/json", "200 OK", b'{"message":"Hello, World!"}')
        self.wants("/stream?n=2&ms=0", "200 OK", b"line 0\nline 1\n")
        self.wants("/sleep?ms=1", "200 OK", b"slept 1 ms\n")
        self.wants("/cpu?ms=1", "200 OK", b"used 1 ms of CPU\n")
        self.wants("/status/418", "418 I'm a Teapot", b"418 I'm a Teapot\n")
        self.wants("/status/599", "599 Unassigned", b"599 Unassigned\n")
        self.wants("/status/204", "204 No Content", b"")

    def test_bytes(self):
        for size in (0, 1, 65535, 65536, 65537, 1_000_000):
            status, headers, body = ask(f"/bytes/{size}")
            self.assertEqual((status, len(body)), ("200 OK", size))
            self.assertEqual(headers["Content-Length"], str(size))

    def test_bad_input_is_answered_with_a_word(self):
        for target in ("/bytes/x", "/bytes/", "/bytes/-1", "/bytes/1073741825",
                       "/bytes/" + "9" * 99, "/bytes/\xb2", "/status/100", "/status/600", "/status/",
                       "/stream?n=x", "/stream?n=100001", "/sleep?ms=-1", "/cpu?ms=1e3"):
            status, _, body = ask(target)
            self.assertEqual(status, "400 Bad Request", target)
            self.assertIn(b"must be a whole number", body, target)
        for target in ("/nothing", "/plaintext/", "/bytes", "//", "/a/b/c"):
            self.assertEqual(ask(target)[0], "404 Not Found", target)

    def test_echo(self):
        shown = json.loads(ask("/echo?a=%20b", "caf\xe9".encode(), REQUEST_METHOD="PUT",
                               HTTP_X_ONE="1", CONTENT_TYPE="text/plain")[2])
        self.assertEqual(shown["method"], "PUT")
        self.assertEqual(shown["query"], "a=%20b")
        self.assertEqual(shown["body"], "caf\xe9")
        self.assertEqual(shown["headers"]["X-One"], "1")
        self.assertEqual(shown["headers"]["Content-Type"], "text/plain")
        shown = json.loads(ask("/echo", b"\xff\0")[2])
        self.assertEqual((shown["body"], shown["body_base64"]), (None, "/wA="))

    def test_pages(self):
        body = ask("/")[2].decode()
        for name in ("plaintext", "json", "bytes", "stream", "sleep", "cpu", "echo", "status"):
            self.assertIn(f"/{name}", body)
        shown = json.loads(ask("/environ")[2])
        self.assertEqual(shown["wsgi.version"], "(1, 0)")
        self.assertEqual(shown["PATH_INFO"], "/environ")


if __name__ == "__main__":
    unittest.main()
