"""WebSocket in Flask: flask-sock's echo, beside a plain view."""

from flask import Flask
from flask_sock import Sock

app = Flask(__name__)
sock = Sock(app)


@app.route("/")
def plain():
    return "plain"


@sock.route("/echo")
def echo(ws):
    while (text := ws.receive()) != "bye":
        ws.send(f"echo {text}")
