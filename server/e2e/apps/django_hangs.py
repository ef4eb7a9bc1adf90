"""A Django site in one file whose views hang: two take the same lock twice, one computes."""

import ctypes
import os
import threading

import django
import gophersnake
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path

settings.configure(SECRET_KEY="for the tests only", ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"],
                   MIDDLEWARE=["django.middleware.common.CommonMiddleware"])
django.setup()
LOCK = threading.Lock()


def transfer(request):
    with LOCK:
        audit(request)
    return HttpResponse("transferred")


def audit(request):
    with LOCK:
        pass


def count():
    while True:
        pass


def compute(request):
    try:
        count()
    except gophersnake.RequestTimeout:
        print("compute: cleaned up", flush=True)
        raise


def hog(request):
    ctypes.PyDLL(None).sleep(60)  # keeps the GIL


def pid(request):
    return HttpResponse(str(os.getpid()))


urlpatterns = [path("transfer", transfer), path("compute", compute), path("hog", hog),
               path("", pid)]
application = get_wsgi_application()
