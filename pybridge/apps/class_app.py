"""The app is a class; its instance is the iterable (PEP 3333's own example)."""


class app:
    def __init__(self, environ, start_response):
        self.start_response = start_response

    def __iter__(self):
        self.start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"class"
