"""Mounts every fixture of pybridge/apps under its file's name: /generator, /bad_status/int, ...

One server then tests them all. The fixture sees its own part of the path and nothing is put
between it and the server: environ, start_response and the result go through as they are.
"""

import importlib
import os
import sys
import wsgiref.validate

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.append(os.path.join(HERE, "..", "..", "..", "pybridge", "apps"))


def app(environ, start_response):
    _, name, *rest = environ["PATH_INFO"].split("/")
    environ["SCRIPT_NAME"] = "/" + name
    environ["PATH_INFO"] = "/" + "/".join(rest)
    return importlib.import_module(name).app(environ, start_response)


validated = wsgiref.validate.validator(app)
