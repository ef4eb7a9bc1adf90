"""A Flask app with what Flask apps have: sessions, templates, uploads, streams, errors."""

import hashlib

from flask import (Flask, abort, flash, jsonify, make_response, redirect, render_template, request,
                   session, stream_with_context, url_for)

app = Flask(__name__)
app.secret_key = "for the tests only"


@app.route("/")
def index():
    return render_template("index.html", name=session.get("name"))


@app.route("/login", methods=["GET", "POST"])
def login():
    if request.method == "GET":
        return render_template("login.html")
    session["name"] = request.form["name"]
    flash("Welcome")
    return redirect(url_for("index"))


@app.route("/logout")
def logout():
    session.clear()
    return redirect(url_for("index"), 303)


@app.route("/upload", methods=["POST"])
def upload():
    files = []
    for name in request.files:
        file = request.files[name]
        data = file.read()
        digest = hashlib.sha256(data).hexdigest()
        files.append({"field": name, "file": file.filename, "size": len(data), "sha256": digest})
    return jsonify(files=files, form=request.form.to_dict())


@app.route("/stream")
def stream():
    def rows():
        for number in range(int(request.args.get("n", 5))):
            yield f"{number},{request.path}\n"

    return app.response_class(stream_with_context(rows()), mimetype="text/csv")


@app.route("/cookies")
def cookies():
    response = make_response(jsonify(dict(request.cookies)))
    size = int(request.args.get("size", 0))
    if size:
        response.set_cookie("big", "c" * size, httponly=True, samesite="Lax")
        response.set_cookie("small", "s")
    return response


@app.route("/json", methods=["POST"])
def json_back():
    return jsonify(request.get_json())


@app.route("/files/<path:name>")
def files(name):
    return app.send_static_file(name)


@app.route("/unicode/<text>")
def unicode_path(text):
    return text + "|" + request.args.get("q", "")


@app.route("/missing")
def missing():
    abort(404)


@app.route("/teapot")
def teapot():
    return "short and stout", 418, {"X-Spout": "yes"}


@app.route("/raises")
def raises():
    raise RuntimeError("secret of the flask app")


@app.errorhandler(404)
def not_found(error):
    return render_template("404.html", path=request.path), 404


def create_app(name="made", debug=False):
    made = Flask(name)
    made.add_url_rule("/", view_func=lambda: f"{name} {debug}")
    return made
