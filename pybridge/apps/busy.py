"""Says so in the log, then computes for ever."""


def app(environ, start_response):
    print("busy: begun", file=environ["wsgi.errors"], flush=True)
    while True:
        pass
