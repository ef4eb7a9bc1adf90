from django.urls import path

from . import views

urlpatterns = [
    path("", views.index, name="index"),
    path("new/", views.new, name="new"),
    path("note/<int:pk>/", views.note, name="note"),
    path("note/<int:pk>/attachment/", views.attachment, name="attachment"),
    path("export/", views.export, name="export"),
    path("visits/", views.visits, name="visits"),
    path("echo/", views.echo, name="echo"),
    path("raises/", views.raises, name="raises"),
]
