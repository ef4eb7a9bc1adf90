"""What the server says of its threads and processes, and what threading sees."""

import json
import threading


def app(environ, start_response):
    names = ("wsgi.multithread", "wsgi.multiprocess", "wsgi.run_once")
    shown = {name: bool(environ[name]) for name in names}
    shown["main"] = threading.current_thread() is threading.main_thread()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(shown).encode()]
