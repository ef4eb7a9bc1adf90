"""The import takes SLOW_IMPORT_MS milliseconds (environment)."""

import os
import time

time.sleep(int(os.environ.get("SLOW_IMPORT_MS", "500")) / 1000)


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"imported"]
