package e2e

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

func TestCherryPy(t *testing.T) {
	onEvery(t, func(t *testing.T, python interpreter) {
		s := startApp(t, python, "", "cherrypy_site", "--workers", "1")
		s.says("engine: started")
		b := s.browser(t)
		b.get("/").want(t, 200, "<h1>Hello stranger</h1>")
		b.get("/?name=Zo%C3%AB").want(t, 200, "<h1>Hello Zoë</h1>")
		for want := 1; want <= 3; want++ {
			b.get("/visits").want(t, 200, fmt.Sprintf(`"visits": %d`, want))
		}
		for _, size := range uploadSizes[1:] {
			data := []byte(pattern(size))
			p := b.upload("/upload", nil, "file", "data.bin", data)
			p.want(t, 200, sha(data), fmt.Sprintf(`"size": %d`, size))
		}
		b.get("/stream").want(t, 200, "row 0\nrow 1\nrow 2\n")
		b.get("/away").want(t, 200, "<h1>Hello back</h1>")
		b.get("/nowhere").want(t, 404)
		s.wantBare(t, b.get("/raises"), "secret of the cherrypy app")
		s.stop(terminate, 0)
		if !strings.Contains(s.log.text(), "engine: stopped") {
			t.Errorf("log: want the engine's stop in it; got:\n%s", s.log.text())
		}
	})
}

func TestBottle(t *testing.T) {
	onEvery(t, func(t *testing.T, python interpreter) {
		s := startApp(t, python, "", "bottle_hello")
		b := s.browser(t)
		b.get("/hello/one").want(t, 200, `{"hello": "one", "seen": null}`)
		b.get("/hello/two").want(t, 200, `{"hello": "two", "seen": "one"}`)
		for _, size := range uploadSizes[1:] {
			p := b.upload("/form", url.Values{"name": {"ünï"}}, "file", "f.bin",
				[]byte(pattern(size)))
			p.want(t, 200, fmt.Sprintf("ünï f.bin %d", size))
		}
		b.get("/stream").want(t, 200, "row 0\nrow 1\nrow 2\n")
		b.get("/gone").want(t, 410, "gone for good")
		b.get("/nowhere").want(t, 404)
		s.wantBare(t, b.get("/raises"), "secret of the bottle app")
	})
}

func TestFalcon(t *testing.T) {
	onEvery(t, func(t *testing.T, python interpreter) {
		s := startApp(t, python, "", "falcon_hello")
		b := s.browser(t)
		b.get("/hello/caf%C3%A9?q=%20x").want(t, 200, `"hello": "café"`, `"q": " x"`)
		request, err := http.NewRequest("POST", b.url+"/hello/x", strings.NewReader(`{"n": [1]}`))
		request.Header.Set("Content-Type", "application/json")
		p := b.do(request, err).want(t, 201, `{"got": {"n": [1]}}`)
		wantEqual(t, "Location", p.header.Get("Location"), "/hello/x")
		b.get("/stream").want(t, 200, "row 0\nrow 1\nrow 2\n")
		b.do(http.NewRequest("PUT", b.url+"/hello/x", nil)).want(t, 405)
		b.get("/nowhere").want(t, 404)
		s.wantBare(t, b.get("/raises"), "secret of the falcon app")
	})
}

func TestPyramid(t *testing.T) {
	onEvery(t, func(t *testing.T, python interpreter) {
		s := startApp(t, python, "", "pyramid_hello")
		b := s.browser(t)
		b.get("/hello/one").want(t, 200, `{"hello": "one", "count": 0}`)
		b.get("/count").want(t, 200, `{"hello": "counted", "count": 1}`)
		b.get("/count").want(t, 200, `{"hello": "counted", "count": 2}`)
		b.get("/stream").want(t, 200, "row 0\nrow 1\nrow 2\n")
		b.get("/nowhere").want(t, 404)
		s.wantBare(t, b.get("/raises"), "secret of the pyramid app")
	})
}
