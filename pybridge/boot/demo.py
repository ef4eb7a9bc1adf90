"""The demo app: what `gophersnake demo` serves, and what load tests aim at. Plain WSGI.

    /                  a page that lists the rest
    /plaintext         Hello, World!
    /json              {"message":"Hello, World!"}, serialised for each request
    /bytes/N           N bytes, Content-Length set; N up to 1 GiB
    /stream?n=&ms=     n lines, ms milliseconds apart, without a Content-Length
    /sleep?ms=         answers after ms milliseconds of sleep
    /cpu?ms=           answers after ms milliseconds of this thread's CPU time
    /echo              the request as JSON: method, path, query, headers and body; body is text
                       where it is UTF-8, else it is null and body_base64 holds it
    /status/CODE       that status, 200 to 599
    /environ           the WSGI environ as JSON, the strings as they are and the rest by repr()

What it cannot do is a 400 or a 404 with a word. The cheap paths come first.
"""

import json
import time
from itertools import chain, repeat

BYTES_MAX = 1 << 30
BLOCK = b"gophersnake demo".ljust(64, b".") * 1024  # 64 KiB
LINES_MAX = 100_000
MILLISECONDS_MAX = 60_000

TEXT = ("Content-Type", "text/plain; charset=utf-8")
JSON = ("Content-Type", "application/json")
HTML = ("Content-Type", "text/html; charset=utf-8")
HELLO_LENGTH = ("Content-Length", "13")
compact = json.JSONEncoder(separators=(",", ":")).encode


class BadInput(Exception):
    """The client asked for something out of range; the text is the answer's body."""


def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/plaintext":
        start_response("200 OK", [TEXT, HELLO_LENGTH])
        return (b"Hello, World!",)
    if path == "/json":
        return _answer(start_response, JSON, compact({"message": "Hello, World!"}))
    _, _, name = path.partition("/")
    name, slash, rest = name.partition("/")
    route = (WITH_ARGUMENT if slash else ROUTES).get(name)
    if route is None:
        return _answer(start_response, TEXT, "not found; / lists what there is\n", "404 Not Found")
    try:
        return route(environ, start_response, rest)
    except BadInput as exc:
        return _answer(start_response, TEXT, f"{exc}\n", "400 Bad Request")


def count(environ, start_response, rest):
    size = _whole(rest, "N", 0, BYTES_MAX)
    kind = ("Content-Type", "application/octet-stream")
    start_response("200 OK", [kind, ("Content-Length", str(size))])
    whole, part = divmod(size, len(BLOCK))
    return chain(repeat(BLOCK, whole), (BLOCK[:part],)) if whole else [BLOCK[:part]]


def stream(environ, start_response, rest):
    lines = _parameter(environ, "n", 10, LINES_MAX)
    pause = _parameter(environ, "ms", 100, MILLISECONDS_MAX) / 1000
    start_response("200 OK", [TEXT])
    return _lines(lines, pause)


def _lines(lines, pause):
    for number in range(lines):
        if number and pause:
            time.sleep(pause)
        yield b"line %d\n" % number


def sleep(environ, start_response, rest):
    pause = _parameter(environ, "ms", 100, MILLISECONDS_MAX)
    time.sleep(pause / 1000)
    return _answer(start_response, TEXT, f"slept {pause} ms\n")


def cpu(environ, start_response, rest):
    burn = _parameter(environ, "ms", 10, MILLISECONDS_MAX)
    end = time.thread_time_ns() + burn * 1_000_000
    while time.thread_time_ns() < end:
        sum(range(100))
    return _answer(start_response, TEXT, f"used {burn} ms of CPU\n")


def echo(environ, start_response, rest):
    body = _body(environ)
    try:
        text = {"body": body.decode()}
    except UnicodeDecodeError:
        from base64 import b64encode

        text = {"body": None, "body_base64": b64encode(body).decode()}
    request = {
        "method": environ["REQUEST_METHOD"],
        "path": environ["PATH_INFO"],
        "query": environ.get("QUERY_STRING", ""),
        "headers": dict(_headers(environ)),
        **text,
    }
    return _answer(start_response, JSON, json.dumps(request, indent=1) + "\n")


def _headers(environ):
    for key, value in environ.items():
        if key.startswith("HTTP_"):
            yield key[5:].replace("_", "-").title(), value
        elif key in ("CONTENT_TYPE", "CONTENT_LENGTH") and value:
            yield key.replace("_", "-").title(), value


def _body(environ):
    # PEP 3333 has no word for a chunked body: without this key only CONTENT_LENGTH bytes are ours.
    if environ.get("wsgi.input_terminated"):
        return environ["wsgi.input"].read()
    return environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))


def status(environ, start_response, rest):
    from http import HTTPStatus

    code = _whole(rest, "CODE", 200, 599)
    try:
        reason = HTTPStatus(code).phrase
    except ValueError:
        reason = "Unassigned"
    if code in (204, 304):
        start_response(f"{code} {reason}", [])
        return []
    return _answer(start_response, TEXT, f"{code} {reason}\n", f"{code} {reason}")


def show_environ(environ, start_response, rest):
    shown = {key: v if isinstance(v, str) else repr(v) for key, v in sorted(environ.items())}
    return _answer(start_response, JSON, json.dumps(shown, indent=1) + "\n")


def index(environ, start_response, rest):
    return _answer(start_response, HTML, PAGE)


def _answer(start_response, kind, text, status="200 OK"):
    body = text.encode("utf-8")
    start_response(status, [kind, ("Content-Length", str(len(body)))])
    return [body]


def _parameter(environ, name, default, most):
    for pair in environ.get("QUERY_STRING", "").split("&"):
        key, _, value = pair.partition("=")
        if key == name:
            return _whole(value, name, 0, most)
    return default


def _whole(text, name, least, most):
    # Ten digits hold every bound here; int() of a million digits takes minutes.
    good = text.isascii() and text.isdigit() and len(text) <= 10
    if not good or not least <= int(text) <= most:
        raise BadInput(f"{name} must be a whole number from {least} to {most}")
    return int(text)


ROUTES = {
    "": index,
    "stream": stream,
    "sleep": sleep,
    "cpu": cpu,
    "echo": echo,
    "environ": show_environ,
}
WITH_ARGUMENT = {"bytes": count, "status": status}

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>gophersnake</title>
<style>
 body { font: 16px/1.6 system-ui, sans-serif; max-width: 44rem; margin: 3rem auto; padding: 0 1rem;
        color: #1c2b2d; background: #f7faf9 }
 h1 { font-weight: 650; letter-spacing: -.02em; margin-bottom: 0 }
 p { margin-top: .2rem; color: #51686b }
 table { border-collapse: collapse; width: 100%; background: #fff; border-radius: 8px;
         box-shadow: 0 1px 4px #0002 }
 td { padding: .45rem .9rem; border-bottom: 1px solid #e6eeec; vertical-align: top }
 tr:last-child td { border: 0 }
 a { color: #0b7a75; text-decoration: none; font-family: ui-monospace, monospace }
 a:hover { text-decoration: underline }
</style>
<h1>gophersnake</h1>
<p>This is the demo app: plain WSGI in your own Python, served by one Go binary.</p>
<table>
<tr><td><a href="/plaintext">/plaintext</a><td>Hello, World!
<tr><td><a href="/json">/json</a><td>the same as JSON
<tr><td><a href="/bytes/1024">/bytes/N</a><td>N bytes, up to 1 GiB
<tr><td><a href="/stream?n=10&amp;ms=200">/stream?n=&amp;ms=</a><td>n lines, ms milliseconds apart
<tr><td><a href="/sleep?ms=500">/sleep?ms=</a><td>answers after a sleep
<tr><td><a href="/cpu?ms=50">/cpu?ms=</a><td>answers after burning CPU time
<tr><td><a href="/echo?a=1">/echo</a><td>your request as JSON: method, headers, body
<tr><td><a href="/status/418">/status/CODE</a><td>that status, 200 to 599
<tr><td><a href="/environ">/environ</a><td>the WSGI environ
</table>
</html>
"""
