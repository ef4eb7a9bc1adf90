"""Bottle: a route, a form, a stream, an error; the callable is Bottle's default app."""

from bottle import abort, default_app, get, post, request, response


@get("/hello/<name>")
def hello(name):
    response.set_cookie("seen", name)
    return {"hello": name, "seen": request.get_cookie("seen")}


@post("/form")
def form():
    upload = request.files.file
    return f"{request.forms.name} {upload.filename} {len(upload.file.read())}"


@get("/stream")
def stream():
    for number in range(3):
        yield f"row {number}\n"


@get("/raises")
def raises():
    raise RuntimeError("secret of the bottle app")


@get("/gone")
def gone():
    abort(410, "gone for good")


application = default_app()
