package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"strings"
	"testing"
)

// browser is a client with a cookie jar that follows redirects.
type browser struct {
	t *testing.T
	*http.Client
	url string
}

func (s *server) browser(t *testing.T) *browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	client := s.client()
	client.Jar = jar
	return &browser{t, client, s.url()}
}

// page is a response with its body read.
type page struct {
	status int
	header http.Header
	body   string
	path   string // after redirects
}

func (b *browser) do(request *http.Request, err error) page {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
	answer, err := b.Do(request)
	if err != nil {
		b.t.Fatalf("%s %s: %v", request.Method, request.URL, err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		b.t.Fatalf("%s %s: body: %v after %d bytes", request.Method, request.URL, err, len(body))
	}
	return page{answer.StatusCode, answer.Header, string(body), answer.Request.URL.Path}
}

func (b *browser) get(path string) page {
	b.t.Helper()
	return b.do(http.NewRequest("GET", b.url+path, nil))
}

func (b *browser) post(path string, form url.Values) page {
	b.t.Helper()
	request, err := http.NewRequest("POST", b.url+path, strings.NewReader(form.Encode()))
	if err == nil {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	return b.do(request, err)
}

// upload posts a multipart form: fields, and one file in the field "file" or another.
func (b *browser) upload(path string, form url.Values, field, name string, data []byte) page {
	b.t.Helper()
	var body bytes.Buffer
	parts := multipart.NewWriter(&body)
	for key := range form {
		_ = parts.WriteField(key, form.Get(key))
	}
	part, err := parts.CreateFormFile(field, name)
	if err != nil {
		b.t.Fatal(err)
	}
	_, _ = part.Write(data)
	_ = parts.Close()
	request, err := http.NewRequest("POST", b.url+path, &body)
	if err == nil {
		request.Header.Set("Content-Type", parts.FormDataContentType())
	}
	return b.do(request, err)
}

func (p page) want(t *testing.T, status int, parts ...string) page {
	t.Helper()
	if p.status != status {
		t.Fatalf("%s: got status %d and %.500q, want %d", p.path, p.status, p.body, status)
	}
	for _, part := range parts {
		if !strings.Contains(p.body, part) {
			t.Errorf("%s: got %.2000q, want %q in it", p.path, p.body, part)
		}
	}
	return p
}

// wantBare requires a 500 without a word of the app's, and the traceback in the log.
func (s *server) wantBare(t *testing.T, p page, secret string) {
	t.Helper()
	p.want(t, 500)
	if strings.Contains(p.body, secret) || strings.Contains(p.body, "Traceback") {
		t.Errorf("500: got %q, want no word of the app's", p.body)
	}
	s.logSays(t, "RuntimeError: "+secret)
}

func sha(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

var uploadSizes = []int{0, 1, 1000, 64 << 10, 300_000, 3 << 20}

func startApp(t *testing.T, python interpreter, dir, app string, args ...string) *server {
	t.Helper()
	return start(t, python, append([]string{app, "--chdir", absolute(appsDir + dir),
		"--workers", "2"}, args...)...)
}

func TestFlask(t *testing.T) {
	onEvery(t, func(t *testing.T, python interpreter) {
		s := startApp(t, python, "/flask_site", "site_app")
		t.Run("session", func(t *testing.T) { flaskSession(t, s) })
		t.Run("upload", func(t *testing.T) { flaskUpload(t, s) })
		t.Run("rest", func(t *testing.T) { flaskRest(t, s) })
		t.Run("cookies", func(t *testing.T) { flaskCookies(t, s) })
	})
}

func flaskSession(t *testing.T, s *server) {
	b := s.browser(t)
	b.get("/").want(t, 200, "<h1>Hello stranger</h1>")
	b.get("/login").want(t, 200, `<form method="post">`)
	p := b.post("/login", url.Values{"name": {"Ada <&> Łukasz"}})
	p.want(t, 200, "<h1>Hello Ada &lt;&amp;&gt; Łukasz</h1>", `<p class="flash">Welcome</p>`)
	wantEqual(t, "path after the redirect", p.path, "/")
	// The session is in a cookie, so each of the two workers knows it.
	for range 6 {
		b.get("/").want(t, 200, "Łukasz")
	}
	b.get("/logout").want(t, 200, "Hello stranger")
	s.browser(t).get("/").want(t, 200, "Hello stranger")
}

func flaskUpload(t *testing.T, s *server) {
	b := s.browser(t)
	for _, size := range uploadSizes {
		data := []byte(pattern(size))
		name := fmt.Sprintf("größe-%d.bin", size)
		p := b.upload("/upload", url.Values{"note": {"ünïcode"}}, "file", name, data)
		p.want(t, 200)
		var got struct {
			Files []struct {
				Field, File, SHA256 string
				Size                int
			}
			Form map[string]string
		}
		if err := json.Unmarshal([]byte(p.body), &got); err != nil || len(got.Files) != 1 {
			t.Fatalf("upload of %d: %v in %s", size, err, p.body)
		}
		wantEqual(t, "file name", got.Files[0].File, name)
		wantEqual(t, "size", got.Files[0].Size, size)
		wantEqual(t, "sha256", got.Files[0].SHA256, sha(data))
		wantEqual(t, "note", got.Form["note"], "ünïcode")
	}
}

func flaskRest(t *testing.T, s *server) {
	b := s.browser(t)
	p := b.get("/stream?n=3").want(t, 200, "0,/stream\n1,/stream\n2,/stream\n")
	wantEqual(t, "Content-Type", p.header.Get("Content-Type"), "text/csv; charset=utf-8")
	wantEqual(t, "rows", strings.Count(b.get("/stream?n=20000").want(t, 200).body, "\n"), 20000)
	b.get("/nowhere/at%20all").want(t, 404, "<h1>Nothing at /nowhere/at all</h1>")
	b.get("/missing").want(t, 404, "<h1>Nothing at /missing</h1>")
	wantEqual(t, "X-Spout", b.get("/teapot").want(t, 418, "short").header.Get("X-Spout"), "yes")
	b.get("/unicode/caf%C3%A9%2Fx?q=%E2%82%AC").want(t, 404)
	b.get("/unicode/caf%C3%A9?q=%E2%82%AC").want(t, 200, "café|€")
	b.do(http.NewRequest("POST", b.url+"/", nil)).want(t, 405)
	request, err := http.NewRequest("POST", b.url+"/json", strings.NewReader(`{"a": ["€", 1]}`))
	request.Header.Set("Content-Type", "application/json")
	b.do(request, err).want(t, 200, `"\u20ac"`)
	s.wantBare(t, b.get("/raises"), "secret of the flask app")

	file, err := os.ReadFile(absolute(appsDir + "/flask_site/static/site.css"))
	if err != nil {
		t.Fatal(err)
	}
	p = b.get("/static/site.css").want(t, 200)
	wantEqual(t, "static file", p.body, string(file))
	request, err = http.NewRequest("GET", b.url+"/files/site.css", nil)
	request.Header.Set("If-None-Match", p.header.Get("ETag"))
	wantEqual(t, "304", b.do(request, err).status, 304)
	request, err = http.NewRequest("GET", b.url+"/files/site.css", nil)
	request.Header.Set("Range", "bytes=5-9")
	wantEqual(t, "range", b.do(request, err).want(t, 206).body, string(file[5:10]))
}

func flaskCookies(t *testing.T, s *server) {
	b := s.browser(t)
	p := b.get("/cookies?size=3900").want(t, 200)
	lines := p.header.Values("Set-Cookie")
	if len(lines) != 2 || len(lines[0]) < 3900 || !strings.HasPrefix(lines[1], "small=s") {
		t.Errorf("Set-Cookie: got %.200q, want the big one, then the small one", lines)
	}
	b.get("/cookies").want(t, 200, strings.Repeat("c", 3900), `"small":"s"`)
}
