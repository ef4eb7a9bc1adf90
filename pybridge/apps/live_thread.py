"""A non-daemon thread of the app's own never ends; stopping must not hang on it."""

import threading

threading.Thread(target=threading.Event().wait).start()


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"alive"]
