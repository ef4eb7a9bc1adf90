package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

// manageMax bounds one run of manage.py.
const manageMax = 2 * time.Minute

func TestDjango(t *testing.T) {
	onEvery(t, func(t *testing.T, python interpreter) {
		data := "DJANGO_DATA=" + t.TempDir()
		manage(t, python, data, "migrate", "--verbosity", "0")
		manage(t, python, data, "createsuperuser", "--noinput", "--username", "admin",
			"--email", "admin@example.org")
		s := startCommand(t, command{python: python, env: []string{data}, args: []string{
			"project.wsgi", "--chdir", absolute(appsDir + "/django_site"), "--workers", "2"}})
		t.Run("notes", func(t *testing.T) { djangoNotes(t, s) })
		t.Run("admin", func(t *testing.T) { djangoAdmin(t, s) })
		t.Run("rest", func(t *testing.T) { djangoRest(t, s) })
	})
}

// The project's own tests pass on this interpreter, so what fails above is the server's.
func TestDjangoOwnTests(t *testing.T) {
	onEvery(t, func(t *testing.T, python interpreter) {
		out := manage(t, python, "DJANGO_DATA="+t.TempDir(), "test")
		if !strings.Contains(out, "\nOK\n") {
			t.Errorf("manage.py test: got %s, want OK", out)
		}
	})
}

func manage(t *testing.T, python interpreter, data string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), manageMax)
	defer cancel()
	cmd := exec.CommandContext(ctx, python.path, append([]string{"manage.py"}, args...)...)
	cmd.Dir = absolute(appsDir + "/django_site")
	cmd.Env = append(cleanEnv(), data, "DJANGO_SUPERUSER_PASSWORD=for the tests only")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("manage.py %q: %v\n%s", args, err, out)
	}
	return string(out)
}

var csrfField = regexp.MustCompile(`name="csrfmiddlewaretoken" value="([^"]+)"`)

// form is what a browser would send with the page's form: its CSRF token, and these fields.
func (p page) form(t *testing.T, pairs ...string) url.Values {
	t.Helper()
	token := csrfField.FindStringSubmatch(p.body)
	if token == nil {
		t.Fatalf("%s: got %.500q, want a form with a CSRF token", p.path, p.body)
	}
	form := url.Values{"csrfmiddlewaretoken": {token[1]}}
	for i := 0; i < len(pairs); i += 2 {
		form.Set(pairs[i], pairs[i+1])
	}
	return form
}

func djangoNotes(t *testing.T, s *server) {
	b := s.browser(t)
	b.get("/").want(t, 200, "No notes yet", `href="/static/notes/site.css"`)
	form := b.get("/new/").form(t, "title", "")
	b.post("/new/", form).want(t, 422, "This field is required")
	b.post("/new/", url.Values{"title": {"x"}}).want(t, 403)

	for _, size := range uploadSizes[1:] { // Django refuses an empty file by itself
		data := []byte(pattern(size))
		form = b.get("/new/").form(t, "title", "Prénom <b>", "text", "two\nlines")
		p := b.upload("/new/", form, "attachment", "data.bin", data)
		p.want(t, 200, "Saved Prénom &lt;b&gt;", "two<br>lines")
		got := b.get(p.path+"attachment/").want(t, 200)
		if !bytes.Equal([]byte(got.body), data) {
			t.Errorf("attachment of %d: got %d bytes, or others", size, len(got.body))
		}
		if got := got.header.Get("Content-Disposition"); !strings.Contains(got, "attachment") {
			t.Errorf("Content-Disposition: got %q, want an attachment", got)
		}
	}
	b.get("/").want(t, 200, "Prénom &lt;b&gt;")
	b.get("/export/").want(t, 200, ",Prénom <b>\n")
	b.get("/note/999/").want(t, 404)
}

func djangoAdmin(t *testing.T, s *server) {
	b := s.browser(t)
	p := b.get("/admin/").want(t, 200)
	wantEqual(t, "path after the redirect", p.path, "/admin/login/")
	login := p.form(t, "username", "admin", "password", "wrong", "next", "/admin/")
	b.post("/admin/login/", login).want(t, 200, "Please enter the correct")
	login = b.get("/admin/login/").form(t, "username", "admin", "password",
		"for the tests only", "next", "/admin/")
	b.post("/admin/login/", login).want(t, 200, "Site administration", "Notes")

	form := b.get("/admin/notes/note/add/").want(t, 200).form(t, "title", "By the admin",
		"text", "", "_save", "Save")
	p = b.post("/admin/notes/note/add/", form).want(t, 200, "was added successfully")
	wantEqual(t, "path after saving", p.path, "/admin/notes/note/")
	b.get("/admin/notes/note/?q=admin").want(t, 200, "By the admin", "1 result")
	b.get("/").want(t, 200, "By the admin")
	css := b.get("/static/admin/css/base.css").want(t, 200, "body")
	if kind := css.header.Get("Content-Type"); !strings.HasPrefix(kind, "text/css") {
		t.Errorf("Content-Type: got %q, want text/css", kind)
	}
}

func djangoRest(t *testing.T, s *server) {
	b := s.browser(t)
	for want := 1; want <= 5; want++ {
		var got struct{ Visits int }
		if err := json.Unmarshal([]byte(b.get("/visits/").want(t, 200).body), &got); err != nil {
			t.Fatal(err)
		}
		wantEqual(t, "visits", got.Visits, want)
	}
	for _, size := range []int{0, 1, 100_000, 2 << 20} {
		data := []byte(pattern(size))
		request, err := http.NewRequest("POST", b.url+"/echo/?a=b%20c", bytes.NewReader(data))
		request.Header.Set("Content-Type", "application/octet-stream")
		p := b.do(request, err).want(t, 200, sha(data), `"secure": false`)
		if !strings.Contains(p.body, b.url+"/echo/?a=b%20c") {
			t.Errorf("build_absolute_uri: got %s, want the URL asked for", p.body)
		}
	}
	b.get("/echo/").want(t, 405)
	p := b.get("/visits") // APPEND_SLASH
	wantEqual(t, "path after the redirect", p.path, "/visits/")
	s.wantBare(t, b.get("/raises/"), "secret of the django app")

	p = b.get("/static/notes/site.css").want(t, 200, "font")
	request, err := http.NewRequest("GET", b.url+"/static/notes/site.css", nil)
	request.Header.Set("If-Modified-Since", p.header.Get("Last-Modified"))
	wantEqual(t, "304", b.do(request, err).status, 304)
	b.get("/static/../settings.py").want(t, 400) // Django's SuspiciousFileOperation
	b.do(http.NewRequest("HEAD", b.url+"/", nil)).want(t, 200)
}
