"""/CODE leaves the process at once; / answers the pid."""

import os


def app(environ, start_response):
    if environ["PATH_INFO"] != "/":
        os._exit(int(environ["PATH_INFO"][1:]))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%d" % os.getpid()]
