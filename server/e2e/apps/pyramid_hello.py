"""Pyramid: routes, a JSON view, a session by signed cookie; made by a factory."""

from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPSeeOther
from pyramid.response import Response
from pyramid.session import SignedCookieSessionFactory


def hello(request):
    return {"hello": request.matchdict["name"], "count": request.session.get("count", 0)}


def count(request):
    request.session["count"] = request.session.get("count", 0) + 1
    return HTTPSeeOther(request.route_url("hello", name="counted"))


def stream(request):
    return Response(app_iter=(b"row %d\n" % number for number in range(3)))


def raises(request):
    raise RuntimeError("secret of the pyramid app")


def create_app():
    with Configurator() as config:
        config.set_session_factory(SignedCookieSessionFactory("for the tests only"))
        for view, path in ((hello, "/hello/{name}"), (count, "/count"), (stream, "/stream"),
                           (raises, "/raises")):
            config.add_route(view.__name__, path)
            renderer = "json" if view is hello else None
            config.add_view(view, route_name=view.__name__, renderer=renderer)
        return config.make_wsgi_app()
