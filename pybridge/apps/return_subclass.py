"""The app returns a list whose own __iter__ counts, and a str subclass as status."""


class Blocks(list):
    def __iter__(self):
        return iter([b"from __iter__"])


class Status(str):
    pass


def app(environ, start_response):
    start_response(Status("200 OK"), [("Content-Type", "text/plain")])
    return Blocks([b"from the list"])
