"""No reference to exc_info is kept: what its frames held dies without the garbage collector."""

import gc
import sys
import weakref


class Held:
    pass


def app(environ, start_response):
    gc.disable()
    held = Held()
    seen = weakref.ref(held)
    try:
        raise ValueError("held")
    except ValueError:
        start_response("200 OK", [("Content-Type", "text/plain")], sys.exc_info())
    del held
    gc.enable()
    return [b"kept" if seen() else b"freed"]
