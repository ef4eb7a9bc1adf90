"""threading and thread-locals work in the app's threads."""

import threading

LOCAL = threading.local()


def app(environ, start_response):
    LOCAL.count = getattr(LOCAL, "count", 0) + 1
    helper = threading.Thread(target=setattr, args=(LOCAL, "count", -1))
    helper.start()
    helper.join()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"kept" if LOCAL.count > 0 else b"lost"]
