package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// PEP 3333 over the fixtures: what an app may do and what the client then sees.

// exchange is one row. Fields left out are not checked.
type exchange struct {
	path string // of the fixture mount: /FIXTURE/…
	head bool   // ask by HEAD
	send string // request body; then by POST

	status  int
	body    string
	fields  map[string]string // response headers; "" means absent
	cut     bool              // the answer is truncated, so that the client can tell
	orError bool              // 500 is as good (the server may refuse what it could repair)
	log     string            // must be in the log
}

var exchanges = []exchange{
	// Callables and results of every kind.
	{path: "/return_list/", status: 200, body: "one two three"},
	{path: "/return_tuple/", status: 200, body: "one two"},
	{path: "/return_bytes/", status: 200, body: "bytes", orError: true},
	{path: "/return_empty/", status: 200, body: "", fields: map[string]string{
		"Content-Length": "0"}},
	{path: "/return_empty/generator", status: 200, body: ""},
	{path: "/return_subclass/", status: 200, body: "from __iter__"},
	{path: "/generator/", status: 200, body: "abcdef", fields: map[string]string{
		"Transfer-Encoding": "chunked", "Content-Length": ""}},
	{path: "/class_app/", status: 200, body: "class"},
	{path: "/instance_app/", status: 200, body: "instance"},
	{path: "/method_app/", status: 200, body: "method"},
	{path: "/partial_app/", status: 200, body: "partial"},
	{path: "/positional_arguments/", status: 200, body: "2 0 True True"},
	{path: "/getitem_iterable/", status: 200, body: "old protocol"},
	{path: "/attributes_watched/", status: 200, body: "watched"},
	{path: "/attributes_watched/seen", status: 200, body: "[]"},
	{path: "/length_lies/more", status: 200, body: "first second"},
	{path: "/length_lies/less", status: 200, body: "first second"},
	{path: "/length_lies/raises", status: 200, body: "first second", orError: true},
	{path: "/late_start_response/", status: 200, body: "late"},

	// start_response, write(), exc_info.
	{path: "/write_callable/", status: 200, body: "written twice returned"},
	{path: "/write_str/", status: 200, body: "TypeError", orError: true},
	{path: "/start_twice/", status: 500, log: "Traceback"},
	{path: "/exc_info_replaces/", status: 503, body: "oops", fields: map[string]string{
		"X-Old": "", "Content-Type": "text/plain"}},
	{path: "/exc_info_late/", status: 200, body: "part", cut: true, log: "ValueError: too late"},
	{path: "/first_block_empty/", status: 503, body: "late", fields: map[string]string{
		"X-Old": ""}},
	{path: "/headers_mutated/", status: 200, body: "mutated", fields: map[string]string{
		"X-Before": "1", "X-After": "", "X-Appended": ""}},
	{path: "/no_start_response/", status: 500, log: "no_start_response"},
	{path: "/returns_none/", status: 500},
	{path: "/yields_str/", status: 500},
	{path: "/yields_none/", status: 500},
	{path: "/close_raises/", status: 200, body: "whole", log: "raised by close"},

	// What the app raises.
	{path: "/raises_before/", status: 500, log: "ValueError: secret of raises_before"},
	{path: "/raises_after_start/", status: 500, fields: map[string]string{"X-Lost": ""},
		log: "ValueError: secret of raises_after_start"},
	{path: "/raises_midway/", status: 200, body: "part", cut: true,
		log: "ValueError: secret of raises_midway"},
	{path: "/raises_midway_length/", status: 200, body: "part", cut: true,
		log: "ValueError: secret of raises_midway_length"},
	{path: "/raises_base/SystemExit", status: 500, log: "SystemExit"},
	{path: "/raises_base/KeyboardInterrupt", status: 500, log: "KeyboardInterrupt"},
	{path: "/raises_base/GeneratorExit", status: 500, log: "GeneratorExit"},
	{path: "/raises_base/StopIteration", status: 500, log: "StopIteration"},
	{path: "/raises_base/MemoryError", status: 500, log: "MemoryError"},
	{path: "/raises_base/BaseException", status: 500, log: "BaseException"},
	{path: "/recursion/", status: 500, log: "RecursionError"},

	// Lengths and bodies.
	{path: "/length_too_long/", status: 200, body: "hel"},
	{path: "/length_too_short/", status: 200, body: "hello", cut: true},
	{path: "/no_content/", status: 204, fields: map[string]string{
		"X-Kept": "1", "Content-Length": "", "Transfer-Encoding": ""}},
	{path: "/no_content/length", status: 204, fields: map[string]string{
		"Content-Length": "", "Transfer-Encoding": ""}},
	{path: "/not_modified/", status: 304, fields: map[string]string{
		"ETag": `"x"`, "Cache-Control": "max-age=60", "Transfer-Encoding": ""}},
	{path: "/head/", head: true, status: 200, fields: map[string]string{
		"Content-Length": "5", "X-Method": "HEAD"}},
	{path: "/head/unknown", head: true, status: 200, fields: map[string]string{
		"X-Method": "HEAD"}},
	{path: "/head/", status: 200, body: "hello"},
	{path: "/bad_length/-1", status: 500},
	{path: "/bad_length/abc", status: 500},
	{path: "/bad_length/", status: 500},
	{path: "/bad_length/5,6", status: 500},
	{path: "/bad_length/%2B5", status: 500},

	// Status and headers.
	{path: "/reasons/none", status: 200, body: "ok", orError: true},
	{path: "/reasons/space", status: 200, body: "ok"},
	{path: "/reasons/words", status: 299, body: "ok"},
	{path: "/reasons/latin", status: 200, body: "ok", orError: true},
	{path: "/own_date/", status: 200, body: "own", fields: map[string]string{
		"Date": "Sun, 06 Nov 1994 08:49:37 GMT", "Server": "mine"}},
	{path: "/cookies/", status: 200, body: "cookies", fields: map[string]string{
		"Set-Cookie": "a=1, b=2"}},
	{path: "/big_header/", status: 200, body: "big", orError: true,
		fields: map[string]string{"X-Big": strings.Repeat("b", 65536)}},
	{path: "/bad_header_list/none", status: 500},
	{path: "/bad_header_list/dict", status: 500},
	{path: "/bad_header_list/tuple", status: 500},

	// wsgi.input, wsgi.errors, wsgi.file_wrapper, environ.
	{path: "/input_echo/", send: "hello", status: 200, body: "hello"},
	{path: "/input_echo/chunks", send: pattern(100_000), status: 200, body: pattern(100_000)},
	{path: "/input_echo/lines", send: "a\r\nb\n\nc", status: 200, body: "a\r\nb\n\nc"},
	{path: "/input_echo/", status: 200, body: ""},
	{path: "/input_unread/", send: pattern(200_000), status: 200, body: "unread"},
	{path: "/errors_stream/", status: 200, body: "logged", log: "errors: printed"},
	{path: "/prints/", status: 200, body: "printed", log: "prints: to stdout"},
	{path: "/file_wrapper_bytesio/", status: 200, body: strings.Repeat("0123456789", 1000)},
	{path: "/file_wrapper_length/", status: 200},
	{path: "/environ_mutated/", status: 200, body: "fresh"},
	{path: "/environ_mutated/", status: 200, body: "fresh"},

	// What the app does beside answering.
	{path: "/threads/", status: 200, body: "kept"},
	{path: "/threads/", status: 200, body: "kept"},
	{path: "/forks/", status: 200, body: "parent"},
	{path: "/subprocesses/", status: 200, body: "sub"},
	{path: "/multiprocesses/", status: 200, body: "6"},
	{path: "/terminates/", status: 200, body: "-15 -15"},
}

// TestExchanges runs the table on every interpreter, all in one server: what one row does to
// the worker, the next would notice.
func TestExchanges(t *testing.T) {
	onEvery(t, func(t *testing.T, python interpreter) {
		s := startFixtures(t, python)
		for _, e := range withRefusals(exchanges) {
			t.Run(strings.ReplaceAll(strings.Trim(e.path, "/"), "/", "."), func(t *testing.T) {
				s.exchange(t, e)
			})
		}
	})
}

// withRefusals adds what start_response refuses when it is called, one row a path.
func withRefusals(table []exchange) []exchange {
	all := append([]exchange{}, table...)
	for _, name := range []string{"int", "bytes", "none", "letters", "empty", "short", "long",
		"crlf", "nul", "interim", "digits", "wide"} {
		all = append(all, exchange{path: "/bad_status/" + name, status: 500})
	}
	for _, name := range []string{"value_crlf", "value_lf", "value_nul", "value_bytes",
		"value_none", "value_wide", "name_crlf", "name_space", "name_colon", "name_empty",
		"name_wide", "three", "one", "number"} {
		all = append(all, exchange{path: "/bad_header/" + name, status: 500})
	}
	// PEP 3333: an app may not set hop-by-hop headers; a server should call that fatal.
	for _, name := range []string{"Connection", "Keep-Alive", "Proxy-Authenticate",
		"Proxy-Authorization", "TE", "Trailer", "Transfer-Encoding", "Upgrade"} {
		all = append(all, exchange{path: "/hop_by_hop/" + name, status: 200, body: "hello",
			fields: map[string]string{name: ""}, orError: true})
	}
	return all
}

func (s *server) exchange(t *testing.T, e exchange) {
	method := "GET"
	if e.head {
		method = "HEAD"
	} else if e.send != "" {
		method = "POST"
	}
	w := dial(t, s.url()).send(request(method, e.path, e.send))
	a := w.next(e.head)
	if e.log != "" {
		s.logSays(t, e.log)
	}
	if e.orError && a.status == 500 {
		e = exchange{status: 500}
	}
	if a.status != e.status || a.whole == e.cut || !e.head && e.status != 500 &&
		e.body != "" && string(a.body) != e.body {
		t.Fatalf("%s %s:\n got %s\nwant %d %.300q cut=%v", method, e.path, a, e.status, e.body,
			e.cut)
	}
	for name, value := range e.fields {
		wantEqual(t, name, a.get(name), value)
	}
	if a.status == 500 && regexp.MustCompile(`secret|Traceback|File "`).Match(a.body) {
		t.Errorf("500: got %q, want no word of the app's", a.body)
	}
	if strings.Contains(fmt.Sprint(a.fields), "Injected") {
		t.Errorf("headers: got %v, want none of the app's injected ones", a.fields)
	}
	switch {
	case e.cut:
		w.wantClosed()
	case a.get("Connection") == "close":
		w.wantClosed()
	default:
		w.wantOpen("/echo/")
	}
}

// logSays is says with the subtest's own t.
func (s *server) logSays(t *testing.T, text string) {
	t.Helper()
	want := regexp.MustCompile(regexp.QuoteMeta(text))
	s.log.wait(t, answerMax, want, 0, s.exited)
}

// An exception before data costs no connection (DESIGN, "Failure answers").
func TestErrorKeepsConnection(t *testing.T) {
	s := startFixtures(t, anyPython())
	w := dial(t, s.url())
	for _, path := range []string{"/raises_before/", "/raises_base/SystemExit", "/yields_none/"} {
		w.send(get(path)).want(500)
		w.wantOpen("/echo/")
	}
}

// PEP 3333: close() is called once, however the request ends.
func TestCloseIsCalledOnce(t *testing.T) {
	onEvery(t, func(t *testing.T, python interpreter) {
		s := startFixtures(t, python, "--threads", "2")
		for _, path := range []string{"/", "/204", "/raises"} {
			w := dial(t, s.url()).send(get("/close_counted" + path))
			w.next(false)
		}
		dial(t, s.url()).send("HEAD /close_counted/ HTTP/1.1\r\nHost: a\r\n\r\n").next(true)

		// A client that goes away in the middle of an endless answer.
		w := dial(t, s.url()).send(get("/close_counted/endless"))
		if _, err := w.r.Peek(100_000 / 64); err != nil {
			t.Fatalf("endless: %v", err)
		}
		w.Close()
		const want = "{'made': 5, 'closed': 5}"
		eventually(t, answerMax, want, func() bool {
			a := dial(t, s.url()).send(get("/close_counted/count")).want(200)
			return string(a.body) == want
		})
	})
}

// wsgi.input answers every call as io.BytesIO would; the fixture compares.
func TestInputMethods(t *testing.T) {
	onEvery(t, func(t *testing.T, python interpreter) {
		s := startFixtures(t, python)
		w := dial(t, s.url())
		for seed := range 40 {
			lines := []int{0, 1, 7, 300, 3000}[seed%5]
			var body strings.Builder
			for i := range lines {
				body.WriteString(strings.Repeat("x", i*37%200) + "\n")
			}
			body.WriteString("tail")
			path := fmt.Sprintf("/input_methods/%d/%d", seed, lines)
			a := w.send(request("POST", path, body.String())).want(200)
			wantEqual(t, path, string(a.body), "same")
		}
	})
}

func TestFileWrapper(t *testing.T) {
	onEvery(t, func(t *testing.T, python interpreter) {
		s := startFixtures(t, python)
		w := dial(t, s.url())
		file, err := os.ReadFile(filepath.Join(fixturesDir, "file_wrapper_file.py"))
		if err != nil {
			t.Fatal(err)
		}
		for _, offset := range []int{0, 1, 100, len(file)} {
			a := w.send(get(fmt.Sprintf("/file_wrapper_file/%d", offset))).want(200)
			wantEqual(t, "file", string(a.body), string(file[offset:]))
		}
		a := w.send(get("/file_wrapper_length/")).want(200)
		wantEqual(t, "file up to Content-Length", string(a.body), `"""wsgi.fi`)
		w.send(get("/file_wrapper_bytesio/")).want(200)
		a = w.send(get("/file_wrapper_bytesio/closed")).want(200)
		wantEqual(t, "closed files", string(a.body), "1")
	})
}

func TestCookieLines(t *testing.T) {
	s := startFixtures(t, anyPython())
	a := dial(t, s.url()).send(get("/cookies/many")).want(200)
	lines := a.all("Set-Cookie")
	wantEqual(t, "lines", len(lines), 50)
	for i, line := range lines {
		want := fmt.Sprintf("c%d=%s", i, strings.Repeat(string(rune('a'+i%26)), 1000))
		wantEqual(t, "Set-Cookie", line, want)
	}
}

// dumped is what environ_dump.py answers.
type dumped struct {
	Environ map[string]string `json:"environ"`
	Types   map[string]string `json:"types"`
	Body    string            `json:"body"`
}

// PEP 3333, "environ Variables". The server's own environment holds what must not shine through.
func TestEnviron(t *testing.T) {
	onEvery(t, func(t *testing.T, python interpreter) {
		s := startCommand(t, command{python: python,
			args: []string{"environ_dump:app", "--chdir", absolute(fixturesDir), "-w", "1"},
			env: []string{"HTTP_PROXY=http://evil", "HTTP_X_FORWARDED_PROTO=https",
				"CONTENT_LENGTH=99", "SCRIPT_NAME=/evil", "REMOTE_USER=root", "HTTPS=on"}})
		w := dial(t, s.url())
		a := w.send(request("POST", "/caf%C3%A9%2Fx;y?q=%20+&&", "body",
			"Content-Type: text/x", "X-One: 1", "x-one: 2", "Cookie: a=1", "Cookie: b=2",
			"X_Evil: 1", "Proxy: evil", "X-Empty:", "X-Latin: caf\xe9")).want(200)
		var d dumped
		if err := json.Unmarshal(a.body, &d); err != nil {
			t.Fatal(err)
		}
		host, port, _ := strings.Cut(s.address(), ":")
		wantEnviron(t, d, map[string]string{
			"REQUEST_METHOD": "POST", "SCRIPT_NAME": "", "PATH_INFO": "/caf\u00c3\u00a9/x;y",
			"QUERY_STRING": "q=%20+&&", "CONTENT_TYPE": "text/x", "CONTENT_LENGTH": "4",
			"SERVER_NAME": host, "SERVER_PORT": port, "SERVER_PROTOCOL": "HTTP/1.1",
			"REMOTE_ADDR": "127.0.0.1", "HTTP_HOST": "a", "HTTP_COOKIE": "a=1; b=2",
			"HTTP_X_EMPTY": "", "HTTP_X_LATIN": "caf\u00e9",
			"wsgi.version": "(1, 0)", "wsgi.url_scheme": "http", "wsgi.multithread": "True",
			"wsgi.multiprocess": "False", "wsgi.run_once": "False"})
		if joined := d.Environ["HTTP_X_ONE"]; joined != "1,2" && joined != "1, 2" {
			t.Errorf("HTTP_X_ONE: got %q, want both values, in order", joined)
		}
		for _, absent := range []string{"HTTP_X_EVIL", "HTTP_PROXY", "HTTP_X_FORWARDED_PROTO",
			"REMOTE_USER", "HTTPS", "HTTP_CONTENT_LENGTH", "HTTP_CONTENT_TYPE", "PATH", "HOME"} {
			if value, ok := d.Environ[absent]; ok {
				t.Errorf("%s: got %q, want it absent", absent, value)
			}
		}
		wantEqual(t, "body", d.Body, "body")
		wantTypes(t, d)
	})
}

func wantEnviron(t *testing.T, d dumped, want map[string]string) {
	t.Helper()
	for name, value := range want {
		got, ok := d.Environ[name]
		if !ok || got != value {
			t.Errorf("%s: got %q (present: %v), want %q", name, got, ok, value)
		}
	}
}

// wantTypes checks that every value without a dot in its name is a str of latin-1.
func wantTypes(t *testing.T, d dumped) {
	t.Helper()
	for name, kind := range d.Types {
		if strings.Contains(name, ".") {
			continue
		}
		wide := strings.IndexFunc(d.Environ[name], func(r rune) bool { return r > 0xff })
		if kind != "str" || wide >= 0 {
			t.Errorf("%s: got %s %q, want a str of latin-1", name, kind, d.Environ[name])
		}
	}
	for name, kind := range map[string]string{"wsgi.version": "tuple",
		"wsgi.multithread": "bool", "wsgi.url_scheme": "str"} {
		wantEqual(t, "type of "+name, d.Types[name], kind)
	}
}

// PEP 3333: the flags tell what the deployment is, in every one of its four forms.
func TestConcurrencyFlags(t *testing.T) {
	for _, workers := range []int{1, 2} {
		for _, threads := range []int{1, 3} {
			t.Run(fmt.Sprintf("%d.%d", workers, threads), func(t *testing.T) {
				s := start(t, anyPython(), "concurrency_flags:app", "--chdir",
					absolute(fixturesDir), "--workers", fmt.Sprint(workers),
					"--threads", fmt.Sprint(threads))
				var flags map[string]bool
				a := dial(t, s.url()).send(get("/")).want(200)
				if err := json.Unmarshal(a.body, &flags); err != nil {
					t.Fatal(err)
				}
				wantEqual(t, "wsgi.multithread", flags["wsgi.multithread"], threads > 1)
				wantEqual(t, "wsgi.multiprocess", flags["wsgi.multiprocess"], workers > 1)
				wantEqual(t, "wsgi.run_once", flags["wsgi.run_once"], false)
				wantEqual(t, "on the main thread", flags["main"], threads == 1)
			})
		}
	}
}
