package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The base of HTTP/1.1 over raw sockets. One interpreter is enough: none of this is Python's.

// startEcho serves echo.py: environ and body come back as JSON.
func startEcho(t *testing.T, args ...string) *server {
	t.Helper()
	return start(t, anyPython(), append([]string{"echo:app", "--chdir", absolute(fixturesDir),
		"--workers", "1"}, args...)...)
}

// startFixtures serves every fixture under its name.
func startFixtures(t *testing.T, python interpreter, args ...string) *server {
	t.Helper()
	return start(t, python, append([]string{"fixtures:app", "--chdir", absolute(appsDir),
		"--workers", "1"}, args...)...)
}

// echoed is what echo.py answers.
type echoed struct {
	Environ  map[string]string `json:"environ"`
	Body     string            `json:"body"` // as latin-1: one rune a byte
	Readable bool              `json:"readable"`
}

func echoOf(t *testing.T, a answer) echoed {
	t.Helper()
	var e echoed
	if err := json.Unmarshal(a.body, &e); err != nil {
		t.Fatalf("echo: %v in %s", err, a)
	}
	return e
}

func wantEqual[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %.300q, want %.300q", what, fmt.Sprint(got), fmt.Sprint(want))
	}
}

func TestKeepAlive(t *testing.T) {
	w := dial(t, startEcho(t).url())
	for i := range 3 {
		path := fmt.Sprintf("/%d", i)
		wantEqual(t, "path", echoOf(t, w.send(get(path)).want(200)).Environ["PATH_INFO"], path)
	}
}

// RFC 9112 §9.3.2: answers in the order of the requests, whatever each takes.
func TestPipelining(t *testing.T) {
	w := dial(t, startEcho(t).url())
	const count = 50
	var all strings.Builder
	for i := range count {
		if i%10 == 3 {
			all.WriteString(get("/slow", fmt.Sprintf("X-Number: %d", i)))
			continue
		}
		body := strings.Repeat("b", i*10)
		all.WriteString(request("POST", "/", body, fmt.Sprintf("X-Number: %d", i)))
	}
	w.send(all.String())
	for i := range count {
		e := echoOf(t, w.want(200))
		wantEqual(t, "number", e.Environ["HTTP_X_NUMBER"], fmt.Sprint(i))
		if i%10 != 3 {
			wantEqual(t, "body length", len(e.Body), i*10)
		}
	}
	w.wantOpen("/")
}

func TestRequestBodies(t *testing.T) {
	s := startEcho(t)
	w := dial(t, s.url())
	for _, size := range []int{0, 1, 1000, 65536, 3_000_000} {
		body := pattern(size)
		e := echoOf(t, w.send(request("POST", "/", body)).want(200))
		wantEqual(t, fmt.Sprintf("body of %d", size), len(e.Body), size)
		if latin1(e.Body) != body {
			t.Errorf("body of %d: got other bytes", size)
		}

		chunked := "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks(body)
		e = echoOf(t, w.send(chunked).want(200))
		if latin1(e.Body) != body {
			t.Errorf("chunked body of %d: got %d bytes, or others", size, len(e.Body))
		}
	}
	w.wantOpen("/")
}

// pattern is text whose every part differs from its neighbours.
func pattern(size int) string {
	var b bytes.Buffer
	for i := 0; b.Len() < size; i++ {
		fmt.Fprintf(&b, "%x,", i*i+i)
	}
	return b.String()[:size]
}

// latin1 turns runes back into the bytes they stand for.
func latin1(text string) string {
	out := make([]byte, 0, len(text))
	for _, r := range text {
		out = append(out, byte(r))
	}
	return string(out)
}

// chunks encodes a body in chunks of growing size.
func chunks(body string) string {
	var b strings.Builder
	for size := 1; len(body) > 0; size = size*3 + 1 {
		n := min(size, len(body))
		fmt.Fprintf(&b, "%x\r\n%s\r\n", n, body[:n])
		body = body[n:]
	}
	return b.String() + "0\r\n\r\n"
}

// RFC 9110 §10.1.1: the client waits for 100 before it sends the body.
func TestExpectContinue(t *testing.T) {
	w := dial(t, startEcho(t).url())
	for range 2 {
		w.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
		w.want(100)
		wantEqual(t, "body", echoOf(t, w.send("hello").want(200)).Body, "hello")
	}
	// RFC 9110 §15.2: no 1xx to HTTP/1.0.
	w.send("POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello")
	wantEqual(t, "body", echoOf(t, w.want(200)).Body, "hello")
	w.wantClosed()
}

func TestPersistence(t *testing.T) {
	s := startEcho(t)
	for _, c := range []struct{ head, connection string }{
		{"GET / HTTP/1.0\r\n\r\n", "close"},
		{"GET / HTTP/1.0\r\nConnection: close\r\n\r\n", "close"},
		{"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "close"},
		{"GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n", "close"},
		{"GET / HTTP/1.1\r\nHost: a\r\nConnection: xclose\r\n\r\n", "keep"},
		{"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n", "keep"},
	} {
		t.Run(fmt.Sprintf("%q", c.head), func(t *testing.T) {
			w := dial(t, s.url()).send(c.head)
			a := w.want(200)
			if c.connection == "keep" {
				w.wantOpen("/")
				return
			}
			// RFC 9112 §9.6: the last answer of a 1.1 connection says so.
			if strings.Contains(c.head, "HTTP/1.1") {
				wantEqual(t, "Connection", a.get("Connection"), "close")
			}
			w.wantClosed()
		})
	}
}

// RFC 9110 §6.6.1: an origin server with a clock sends Date.
func TestDateAndServer(t *testing.T) {
	w := dial(t, startEcho(t).url())
	a := w.send(get("/")).want(200)
	date, err := time.Parse(http.TimeFormat, a.get("Date"))
	if err != nil || time.Since(date).Abs() > 5*time.Second || len(a.all("Date")) != 1 {
		t.Errorf("Date: got %q (%v), want now, once", a.all("Date"), err)
	}
	wantEqual(t, "Server", len(a.all("Server")), 1)
	// Date goes on with the clock, it is not the start's.
	eventually(t, 10*time.Second, "a later Date", func() bool {
		return w.send(get("/")).want(200).get("Date") != a.get("Date")
	})
}

func TestMalformedHeads(t *testing.T) {
	s := startEcho(t)
	for _, head := range []string{
		"GET\r\n\r\n",
		"GET / HTTP/1.1\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
		"GET / HTTP/1.1\r\n folded: first\r\nHost: a\r\n\r\n",
		"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
		"GET / HTTP/1.1\nHost: a\n\n",
		"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 not a request\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
	} {
		t.Run(fmt.Sprintf("%.40q", head), func(t *testing.T) {
			w := dial(t, s.url()).send(head + get("/after"))
			a := w.want(400)
			wantEqual(t, "Connection", a.get("Connection"), "close")
			wantEqual(t, "Cache-Control", a.get("Cache-Control"), "no-store")
			w.wantClosed()
		})
	}
	w := dial(t, s.url())
	w.wantOpen("/")
}

// A body over the limit is refused before it is read, and the client gets to know.
func TestBodyTooLarge(t *testing.T) {
	s := startEcho(t)
	w := dial(t, s.url())
	w.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n").want(413)
	w.wantClosed()
	w = dial(t, s.url())
	w.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nfffffff0\r\n").want(413)
	w.wantClosed()
	w = dial(t, s.url())
	w.wantOpen("/")
}

// RFC 9112 §9.6: a client that has sent all may close its side and still get the answer.
func TestHalfClose(t *testing.T) {
	s := startFixtures(t, anyPython())
	for _, path := range []string{"/echo/", "/echo/slow", "/big_body/100/80000"} {
		w := dial(t, s.url()).send(get(path))
		w.finish()
		if a := w.want(200); !a.whole {
			t.Errorf("%s: got a cut answer of %d bytes", path, len(a.body))
		}
		w.wantClosed()
	}
	// Half a request is no request: the app must not see it.
	for _, part := range []string{"", "GET / HT", "GET / HTTP/1.1\r\nHost: a\r\n"} {
		w := dial(t, s.url()).send(part)
		w.finish()
		if a, err := readAnswer(w.r, false); err == nil && a.status != 400 {
			t.Errorf("%q and a half-close: got %s, want no answer or 400", part, a)
		}
	}
}

// Each block is on its way before the app is asked for the next one.
func TestStreamIsNotHeldBack(t *testing.T) {
	s := startFixtures(t, anyPython(), "--threads", "2")
	w := dial(t, s.url()).send(get("/stream_gaps/"))
	for line := ""; line != "\r\n"; {
		var err error
		if line, err = w.r.ReadString('\n'); err != nil {
			t.Fatalf("head: %v", err)
		}
	}
	for i := range 4 {
		var block strings.Builder
		for !strings.Contains(block.String(), fmt.Sprintf("block %d\n", i)) {
			c, err := w.r.ReadByte()
			if err != nil {
				t.Fatalf("block %d: got %q and %v", i, block.String(), err)
			}
			block.WriteByte(c)
		}
		dial(t, s.url()).send(get("/stream_gaps/next")).want(200)
	}
}

// A client that reads slowly gets every byte; others are served meanwhile.
func TestBigAnswerToASlowReader(t *testing.T) {
	s := startFixtures(t, anyPython())
	slow := dial(t, s.url()).send(get("/big_body/200/65536"))
	fast := dial(t, s.url())
	for range 20 {
		fast.wantOpen("/echo/")
	}
	a := slow.want(200)
	wantEqual(t, "length", len(a.body), 200*65536)
	for i := 0; i < len(a.body); i += 65536 {
		if a.body[i] != byte(i/65536) || a.body[i+65535] != byte(i/65536) {
			t.Fatalf("block %d: got number %d", i/65536, a.body[i])
		}
	}
	slow.wantOpen("/echo/")
}

// A client that has read an answer to its last byte may send the next request at once, and a big
// one. What the server still does about the answer (the app's close(), the end of a drained body)
// must not make that a pipelined request, for which there is little room.
func TestBigRequestAfterAnswer(t *testing.T) {
	s := startFixtures(t, anyPython())
	body := pattern(3 << 20)
	w := dial(t, s.url())
	for _, path := range []string{"/close_slow/", "/big_body/50/65536", "/close_slow/"} {
		w.send(get(path)).want(200)
		a := w.send(request("POST", "/input_echo/", body)).want(200)
		if string(a.body) != body {
			t.Fatalf("echo after %s: got %d bytes, or others, want %d", path, len(a.body),
				len(body))
		}
	}
}

func TestSeveralListeners(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gophersnake.sock")
	s := startCommand(t, command{python: anyPython(),
		args:    []string{"echo:app", "--chdir", absolute(fixturesDir), "--workers", "1"},
		listens: []string{"127.0.0.1:0", "unix:" + path, "127.0.0.1:0"}})
	ports := map[string]bool{}
	for _, url := range s.urls {
		w := dial(t, url)
		e := echoOf(t, w.send(get("/")).want(200))
		// PEP 3333: SERVER_NAME and SERVER_PORT can never be empty strings.
		if e.Environ["SERVER_NAME"] == "" || e.Environ["SERVER_PORT"] == "" {
			t.Errorf("%s: got SERVER_NAME %q, SERVER_PORT %q", url, e.Environ["SERVER_NAME"],
				e.Environ["SERVER_PORT"])
		}
		if tcp, ok := strings.CutPrefix(url, "http://127.0.0.1:"); ok {
			ports[tcp] = true
			wantEqual(t, "SERVER_PORT", e.Environ["SERVER_PORT"], tcp)
		}
		w.wantOpen("/")
	}
	wantEqual(t, "ports", len(ports), 2)
	s.stop(terminate, 0)
	if _, err := os.Stat(path); err == nil {
		t.Errorf("%s: got left behind after the stop, want removed", path)
	}
}

func TestManyConnections(t *testing.T) {
	s := startEcho(t)
	var open []*wire
	for range 300 {
		open = append(open, dial(t, s.url()))
	}
	for i, w := range open {
		w.send(get(fmt.Sprintf("/%d", i)))
	}
	for i, w := range open {
		path := echoOf(t, w.want(200)).Environ["PATH_INFO"]
		wantEqual(t, "path", path, fmt.Sprintf("/%d", i))
	}
}
