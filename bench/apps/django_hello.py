"""The two workloads of a framework, in Django, with the settings of a small production site."""

import django
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpResponse, JsonResponse
from django.urls import path

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.middleware.common.CommonMiddleware",
    ],
    ROOT_URLCONF=__name__,
    SECRET_KEY="of a benchmark, guards nothing",
)
django.setup()


def hello(request):
    return HttpResponse("Hello, World!", content_type="text/plain")


def dumped(request):
    return JsonResponse({"message": "Hello, World!"})


urlpatterns = [path("", hello), path("json", dumped)]
app = application = WSGIHandler()
