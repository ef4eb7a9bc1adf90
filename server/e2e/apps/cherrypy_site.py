"""CherryPy as its deployment page has it: mounted by cherrypy.tree, the engine started here.

The engine's stop is tied to the interpreter's end, as CherryPy's own documentation asks of apps
under a foreign server; the log must then tell of both its start and its stop.
"""

import atexit
import hashlib
import sys

import cherrypy

cherrypy.config.update({"environment": "embedded", "log.screen": True})
cherrypy.server.unsubscribe()


class Site:
    @cherrypy.expose
    def index(self, name="stranger"):
        return f"<h1>Hello {name}</h1>"

    @cherrypy.expose
    @cherrypy.tools.json_out()
    def visits(self):
        cherrypy.session["visits"] = cherrypy.session.get("visits", 0) + 1
        return {"visits": cherrypy.session["visits"]}

    @cherrypy.expose
    @cherrypy.tools.json_out()
    def upload(self, file):
        data = file.file.read()
        digest = hashlib.sha256(data).hexdigest()
        return {"name": file.filename, "size": len(data), "sha256": digest}

    @cherrypy.expose
    def stream(self):
        return (f"row {number}\n" for number in range(3))

    stream._cp_config = {"response.stream": True}

    @cherrypy.expose
    def away(self):
        raise cherrypy.HTTPRedirect("/?name=back")

    @cherrypy.expose
    def raises(self):
        raise RuntimeError("secret of the cherrypy app")


cherrypy.engine.subscribe("start", lambda: print("engine: started", file=sys.stderr, flush=True))
cherrypy.engine.subscribe("stop", lambda: print("engine: stopped", file=sys.stderr, flush=True))
cherrypy.tree.mount(Site(), "/", {"/": {"tools.sessions.on": True}})
cherrypy.engine.start()
atexit.register(cherrypy.engine.exit)
application = cherrypy.tree
