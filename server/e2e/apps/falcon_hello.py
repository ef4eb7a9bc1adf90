"""Falcon: a resource with GET and POST, a stream, an error."""

import falcon


class Hello:
    def on_get(self, request, response, name):
        response.media = {"hello": name, "q": request.get_param("q")}

    def on_post(self, request, response, name):
        response.status = falcon.HTTP_201
        response.location = f"/hello/{name}"
        response.media = {"got": request.media}


class Stream:
    def on_get(self, request, response):
        response.stream = (b"row %d\n" % number for number in range(3))


class Raises:
    def on_get(self, request, response):
        raise RuntimeError("secret of the falcon app")


app = falcon.App()
app.add_route("/hello/{name}", Hello())
app.add_route("/stream", Stream())
app.add_route("/raises", Raises())
