"""The app is an instance with __call__."""


class App:
    def __call__(self, environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"instance"]


app = App()
