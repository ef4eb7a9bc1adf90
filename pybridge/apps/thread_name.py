"""The name of the thread that serves, and whether it is the main one."""

import threading


def app(environ, start_response):
    thread = threading.current_thread()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{thread.name} {thread is threading.main_thread()}".encode()]
