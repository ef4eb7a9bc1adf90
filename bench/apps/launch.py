"""Starts a server that has no command line of its own, or none with the settings we need.

Usage: launch.py SERVER APP_MODULE PORT THREADS BACKLOG
"""

import importlib
import os
import sys

HOST = "127.0.0.1"
CLIENTS_MAX = 20_000
IDLE_SECONDS = 75


def fastpysgi(app, port, threads, backlog):
    """Its example for load tests: one loop in one thread, no delay on the socket."""
    import fastpysgi

    fastpysgi.server.tcp_nodelay = 1
    fastpysgi.server.backlog = backlog
    fastpysgi.server.max_content_length = 100 * 1024 * 1024
    fastpysgi.run(app, HOST, port, loglevel=1)


def fastwsgi(app, port, threads, backlog):
    import fastwsgi

    fastwsgi.server.tcp_nodelay = 1
    fastwsgi.server.backlog = backlog
    fastwsgi.run(app, HOST, port, loglevel=1)


def bjoern(app, port, threads, backlog):
    import bjoern

    bjoern.run(app, HOST, port, listen_backlog=backlog)


def waitress(app, port, threads, backlog):
    import waitress

    waitress.serve(
        app,
        host=HOST,
        port=port,
        threads=threads,
        backlog=backlog,
        connection_limit=CLIENTS_MAX,
        channel_timeout=IDLE_SECONDS,
        asyncore_use_poll=True,
    )


def cheroot(app, port, threads, backlog):
    from cheroot import wsgi

    server = wsgi.Server(
        (HOST, port), app, numthreads=threads, request_queue_size=backlog, timeout=IDLE_SECONDS
    )
    server.keep_alive_conn_limit = CLIENTS_MAX
    server.start()


def main():
    server, module, port, threads, backlog = sys.argv[1:]
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    # This directory holds no module named like a server; a server's own name is imported
    # inside its function.
    app = importlib.import_module(module).app
    globals()[server](app, int(port), int(threads), int(backlog))


main()
