"""The app is a bound method."""


class Holder:
    def serve(self, environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"method"]


app = Holder().serve
