"""The two workloads of a framework, in Flask."""

from flask import Flask, jsonify

app = Flask(__name__)


@app.get("/")
def hello():
    return "Hello, World!", {"Content-Type": "text/plain"}


@app.get("/json")
def dumped():
    return jsonify(message="Hello, World!")


application = app
