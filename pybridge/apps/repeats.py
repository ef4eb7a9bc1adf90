"""Its environ's strings, and how much of what ?keep ever kept still answers; spoils its environ."""

import contextlib
import json

kept = []


def answers(call):
    with contextlib.suppress(RuntimeError, ValueError):
        call()
        return True


def app(environ, start_response):
    late = sum(bool(answers(call)) for call in kept)
    read, gone = environ["wsgi.input"].read, environ["gophersnake.client_disconnected"]
    answer = {k: v for k, v in environ.items() if isinstance(v, str)}
    answer = {"environ": answer, "late": late, "body": read().decode(), "gone": gone()}
    write = start_response("200 OK", [])
    write(json.dumps(answer).encode())
    if environ["QUERY_STRING"] == "keep":
        kept.extend([read, gone, lambda: write(b"late"), lambda: start_response("500 Late", [])])
    environ.update({"HTTP_HOST": "spoilt", "PATH_INFO": "spoilt", "wsgi.input": None})
    return []
