"""The admin, the notes, and static files through Django's own view."""

from django.contrib import admin
from django.contrib.staticfiles.views import serve
from django.urls import include, path, re_path

urlpatterns = [
    path("admin/", admin.site.urls),
    # Without a web server in front; "insecure" only says that DEBUG is off.
    re_path(r"^static/(?P<path>.*)$", serve, {"insecure": True}),
    path("", include("notes.urls")),
]
