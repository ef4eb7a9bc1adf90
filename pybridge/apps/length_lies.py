"""len() of the result is not the number of its blocks (/more, /less), or raises (/raises)."""


class Liar:
    def __init__(self, claims):
        self.claims = claims

    def __len__(self):
        return self.claims if self.claims else 1 // 0

    def __iter__(self):
        return iter([b"first ", b"second"])


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return Liar({"/more": 5, "/less": 1}.get(environ["PATH_INFO"]))
