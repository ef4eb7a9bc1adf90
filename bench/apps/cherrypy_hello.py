"""The two workloads of a framework, in CherryPy."""

import json

import cherrypy

cherrypy.config.update({"environment": "embedded", "log.screen": False})


class Site:
    @cherrypy.expose
    def index(self):
        cherrypy.response.headers["Content-Type"] = "text/plain"
        return b"Hello, World!"

    @cherrypy.expose
    def json(self):
        cherrypy.response.headers["Content-Type"] = "application/json"
        return json.dumps({"message": "Hello, World!"}).encode()


app = application = cherrypy.Application(Site(), "")
