"""The project's own tests: the server's tests expect the same over the wire."""

import tempfile

from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client, TestCase, override_settings

from .models import Note


@override_settings(MEDIA_ROOT=tempfile.mkdtemp())
class NotesTest(TestCase):
    def test_empty_index(self):
        self.assertContains(self.client.get("/"), "No notes yet")

    def test_new_note_with_attachment(self):
        file = SimpleUploadedFile("a.bin", bytes(range(256)) * 100)
        answer = self.client.post("/new/", {"title": "One", "attachment": file}, follow=True)
        self.assertContains(answer, "Saved One")
        note = Note.objects.get()
        got = b"".join(self.client.get(f"/note/{note.pk}/attachment/").streaming_content)
        self.assertEqual(got, bytes(range(256)) * 100)

    def test_invalid_form(self):
        answer = self.client.post("/new/", {"title": ""})
        self.assertContains(answer, "This field is required", status_code=422)

    def test_csrf_is_enforced(self):
        answer = Client(enforce_csrf_checks=True).post("/new/", {"title": "x"})
        self.assertEqual(answer.status_code, 403)

    def test_export_streams(self):
        Note.objects.create(title="Two")
        answer = self.client.get("/export/")
        self.assertTrue(answer.streaming)
        self.assertIn(b"Two", b"".join(answer.streaming_content))

    def test_sessions(self):
        counts = [self.client.get("/visits/").json()["visits"] for _ in range(3)]
        self.assertEqual(counts, [1, 2, 3])

    def test_static_files(self):
        answer = self.client.get("/static/notes/site.css")
        self.assertIn(b"font", b"".join(answer.streaming_content))
