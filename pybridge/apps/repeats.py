"""Its environ's str items as JSON. With ?keep it keeps what belongs to the request, then counts
what of all that was ever kept still answers; it spoils its environ in any case."""

import json

kept = []


def answers(call):
    try:
        call()
    except (RuntimeError, ValueError):
        return False
    return True


def app(environ, start_response):
    late = sum(answers(call) for call in kept)
    body = environ["wsgi.input"].read().decode()
    gone = environ["gophersnake.client_disconnected"]()
    answer = {k: v for k, v in environ.items() if isinstance(v, str)}
    write = start_response("200 OK", [])
    write(json.dumps({"environ": answer, "late": late, "body": body, "gone": gone}).encode())
    if environ["QUERY_STRING"] == "keep":
        own = environ["wsgi.input"].read, environ["gophersnake.client_disconnected"]
        kept.extend([*own, lambda: write(b"late"), lambda: start_response("500 Late", [])])
    environ.update({"HTTP_HOST": "spoilt", "PATH_INFO": "spoilt", "wsgi.input": None})
    return []
