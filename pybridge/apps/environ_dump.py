"""The environ and the body as JSON: {"environ": {key: str}, "types": {key: type}, "body": str}."""

import json


def app(environ, start_response):
    body = environ["wsgi.input"].read(-1)
    shown = {
        "environ": {k: v if isinstance(v, str) else repr(v) for k, v in environ.items()},
        "types": {k: type(v).__name__ for k, v in environ.items()},
        "body": body.decode("latin-1"),
    }
    answer = json.dumps(shown).encode()
    start_response("200 OK", [("Content-Length", str(len(answer)))])
    return [answer]
