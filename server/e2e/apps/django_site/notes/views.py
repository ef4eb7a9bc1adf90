import hashlib

from django.contrib import messages
from django.http import FileResponse, JsonResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from .forms import NoteForm
from .models import Note


def index(request):
    return render(request, "notes/index.html", {"notes": Note.objects.all()})


def new(request):
    form = NoteForm(request.POST or None, request.FILES or None)
    if form.is_valid():
        saved = form.save()
        messages.success(request, f"Saved {saved.title}")
        return redirect("note", pk=saved.pk)
    return render(request, "notes/new.html", {"form": form}, status=422 if form.errors else 200)


def note(request, pk):
    return render(request, "notes/note.html", {"note": get_object_or_404(Note, pk=pk)})


def attachment(request, pk):
    """A FileResponse: Django asks for wsgi.file_wrapper here."""
    file = get_object_or_404(Note, pk=pk).attachment.open("rb")
    return FileResponse(file, as_attachment=True)


def export(request):
    """A StreamingHttpResponse over a query: rows leave as they are read."""
    rows = (f"{note.pk},{note.title}\n" for note in Note.objects.iterator())
    return StreamingHttpResponse(rows, content_type="text/csv")


def visits(request):
    request.session["visits"] = request.session.get("visits", 0) + 1
    return JsonResponse({"visits": request.session["visits"]})


@csrf_exempt
@require_POST
def echo(request):
    return JsonResponse({
        "size": len(request.body),
        "sha256": hashlib.sha256(request.body).hexdigest(),
        "type": request.content_type,
        "agent": request.headers.get("User-Agent", ""),
        "secure": request.is_secure(),
        "uri": request.build_absolute_uri(),
    })


def raises(request):
    raise RuntimeError("secret of the django app")
