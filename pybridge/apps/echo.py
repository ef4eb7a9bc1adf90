"""What serves the raw cases: environ and body as JSON; /slow waits, /unread does not read."""

import json
import time


def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/slow":
        time.sleep(0.3)
    body = b"" if path == "/unread" else environ["wsgi.input"].read(-1)
    strings = {k: v for k, v in environ.items() if isinstance(v, str)}
    readable = hasattr(environ["wsgi.input"], "read")
    shown = {"environ": strings, "body": body.decode("latin-1"), "readable": readable}
    answer = json.dumps(shown).encode()
    kind = ("Content-Type", "application/json")
    start_response("200 OK", [kind, ("Content-Length", str(len(answer)))])
    return [answer]
