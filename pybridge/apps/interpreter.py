"""Which Python serves, from where: executable, prefix, version, sys.path[0], directory."""

import json
import os
import sys


def app(environ, start_response):
    shown = {"executable": sys.executable, "prefix": sys.prefix, "path": sys.path[0]}
    shown["version"] = "%d.%d" % sys.version_info[:2]
    shown["directory"] = os.getcwd()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(shown).encode()]
