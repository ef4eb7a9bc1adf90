"""The import says so in the log and waits until IMPORT_GATE, a FIFO, is opened and closed."""

import os

print("import_waits: begun", flush=True)
open(os.environ["IMPORT_GATE"]).read()


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"imported"]
