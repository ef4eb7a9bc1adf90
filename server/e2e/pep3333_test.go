package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// testdata/pep3333.txt says which test shows each requirement of PEP 3333; here are the tests
// for those that no other file had.

// pep3333Ranges are the numbers of the requirements, both ends included.
func pep3333Ranges() [][2]int { return [][2]int{{1, 13}, {20, 37}, {40, 50}, {60, 88}} }

// Every requirement has its line, and every name in it is of something that runs.
func TestPEP3333IsCovered(t *testing.T) {
	tests := sources(t, "*_test.go", "../../pybridge/*_test.go")
	cases := sources(t, "testdata/rawcases.txt")
	shown := map[string]bool{}
	for number, line := range strings.Split(sources(t, "testdata/pep3333.txt"), "\n") {
		if line == "" || line[0] == '#' {
			continue
		}
		parts := strings.Split(line, " | ")
		if len(parts) != 3 || shown[parts[0]] {
			t.Fatalf("line %d: got %q, want ID | NAMES | what, each id once", number+1, line)
		}
		shown[parts[0]] = true
		for _, name := range strings.Fields(parts[1]) {
			found := false
			switch {
			case strings.HasPrefix(name, "Test"):
				found = strings.Contains(tests, "\nfunc "+name+"(t *testing.T) {")
			case strings.ToUpper(name) == name:
				found = strings.Contains(cases, "\n"+name+" |")
			default:
				_, err := os.Stat(filepath.Join(fixturesDir, name+".py"))
				found = err == nil && regexp.MustCompile(`["/]`+name+`[/:"]`).MatchString(tests)
			}
			if !found {
				t.Errorf("%s: no %s that a test uses", parts[0], name)
			}
		}
	}
	total := 0
	for _, ends := range pep3333Ranges() {
		for number := ends[0]; number <= ends[1]; number++ {
			total++
			if id := fmt.Sprintf("W-%02d", number); !shown[id] {
				t.Errorf("%s: no line", id)
			}
		}
	}
	wantEqual(t, "lines", len(shown), total)
}

// sources is the text of all files that match.
func sources(t *testing.T, patterns ...string) string {
	t.Helper()
	var all strings.Builder
	for _, pattern := range patterns {
		paths, err := filepath.Glob(pattern)
		if err != nil || len(paths) == 0 {
			t.Fatalf("%s: got %v, %v", pattern, paths, err)
		}
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			all.WriteString("\n" + string(text))
		}
	}
	return all.String()
}

func TestPEP3333Exchanges(t *testing.T) {
	table := []exchange{
		{path: "/start_again/", status: 500, log: "start_again"},
		{path: "/exc_info_freed/", status: 200, body: "freed"},
		{path: "/length_reached/iterated", status: 200, body: "aba"},
		{path: "/length_reached/written", status: 200, body: "abc"},
		{path: "/length_reached/said", status: 200, body: "refused"},
		{path: "/yields_other/bytearray", status: 500},
		{path: "/yields_other/memoryview", status: 500},
		{path: "/yields_other/int", status: 500},
		{path: "/yields_other/list", status: 500},
		{path: "/bad_header_list/lists", status: 500},
		{path: "/bad_header_list/subclass", status: 500},
	}
	onEvery(t, func(t *testing.T, python interpreter) {
		s := startFixtures(t, python)
		for _, e := range table {
			t.Run(strings.ReplaceAll(strings.Trim(e.path, "/"), "/", "."), func(t *testing.T) {
				s.exchange(t, e)
			})
		}
	})
}

// close() is called once where the iteration fails, where the client stops reading, and while
// the server stops. (A worker that is killed when --graceful-timeout has passed calls nothing.)
func TestCloseAlways(t *testing.T) {
	s := startFixtures(t, anyPython(), "--write-timeout", "1s", "--max-spool", "1MiB")
	counts := func() string {
		return string(dial(t, s.url()).send(get("/close_always/counts")).want(200).body)
	}
	dial(t, s.url()).send(get("/close_always/status")).want(500)
	dial(t, s.url()).send(get("/close_always/str")).want(500)
	eventually(t, answerMax, "2 2", func() bool { return counts() == "2 2" })

	stuck := dial(t, s.url())
	_ = stuck.Conn.(*net.TCPConn).SetReadBuffer(4096)
	stuck.send(get("/close_always/endless"))
	eventually(t, answerMax, "3 3", func() bool { return counts() == "3 3" })

	w := dial(t, s.url()).send(get("/close_always/endless"))
	if _, err := w.r.Peek(4096); err != nil {
		t.Fatal(err)
	}
	_ = s.process.Signal(terminate)
	s.says("stopping")
	w.Close()
	s.wantExit(stopMax, 0)
	if got := strings.Count(s.log.text(), "close_always: closed"); got != 4 {
		t.Errorf("closed: got %d results, want 4; log:\n%s", got, s.log.text())
	}
}

func dumpOf(t *testing.T, a answer) dumped {
	t.Helper()
	var d dumped
	if err := json.Unmarshal(a.body, &d); err != nil {
		t.Fatalf("%v in %s", err, a)
	}
	return d
}

// Requests as raw text, and what environ must hold.
func TestEnvironToTheLetter(t *testing.T) {
	const none = "\x00absent"
	s := startCommand(t, fixture(anyPython(), "environ_dump:app", "-w", "1"))
	_, port, _ := strings.Cut(s.address(), ":")
	for _, c := range []struct {
		text string
		want map[string]string
	}{
		{get("/"), map[string]string{"REQUEST_METHOD": "GET", "SCRIPT_NAME": "",
			"PATH_INFO": "/", "QUERY_STRING": "", "CONTENT_TYPE": none, "CONTENT_LENGTH": none,
			"SERVER_PORT": port, "SERVER_PROTOCOL": "HTTP/1.1", "HTTPS": none,
			"REMOTE_USER": none, "REMOTE_ADDR": "127.0.0.1", "GATEWAY_INTERFACE": "CGI/1.1",
			"HTTP_CONNECTION": none}},
		{request("get", "/a?", ""), map[string]string{"REQUEST_METHOD": "get",
			"QUERY_STRING": ""}},
		{request("M-SEARCH", "/?a=%20+", ""), map[string]string{"REQUEST_METHOD": "M-SEARCH",
			"QUERY_STRING": "a=%20+"}},
		{get("/x??&=%zz"), map[string]string{"QUERY_STRING": "?&=%zz"}},
		{"GET /old HTTP/1.0\r\n\r\n", map[string]string{"SERVER_PROTOCOL": "HTTP/1.0",
			"SERVER_NAME": "127.0.0.1", "SERVER_PORT": port, "HTTP_HOST": none}},
		{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n" +
			"3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n", map[string]string{"CONTENT_LENGTH": "3",
			"HTTP_TRANSFER_ENCODING": none, "HTTP_X_T": none, "wsgi.input_terminated": "True"}},
		{"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Type:\r\n\r\n",
			map[string]string{"CONTENT_TYPE": "", "HTTP_CONTENT_LENGTH": none,
				"HTTP_CONTENT_TYPE": none}},
	} {
		d := dumpOf(t, dial(t, s.url()).send(c.text).want(200))
		for name, want := range c.want {
			got, ok := d.Environ[name]
			if ok != (want != none) || ok && got != want {
				t.Errorf("%.60q: %s: got %q (present: %v), want %q", c.text, name, got, ok, want)
			}
		}
		wantTypes(t, d)
	}
}

// PATH_INFO is the path's bytes, whatever they are, and the URL can be put together again.
func TestPathBytes(t *testing.T) {
	s := startCommand(t, fixture(anyPython(), "url_rebuilt:app", "-w", "1"))
	w := dial(t, s.url())
	for b := range 256 {
		if b == 0 {
			continue // RT-24: refused
		}
		target := fmt.Sprintf("/p%%%02X%%%02x", b, b)
		a := w.send(get(target + "?q=%20")).want(200)
		url, path, _ := strings.Cut(string(a.body), "\n")
		wantEqual(t, target, path, fmt.Sprintf("2f70%02x%02x", b, b))
		if !strings.HasPrefix(url, "http://a/p") || !strings.HasSuffix(url, "?q=%20") {
			t.Errorf("%s: got the URL %q", target, url)
		}
	}
	for _, target := range []string{"/", "/a/b;c=d,e", "/caf%C3%A9%20x?a=b&c", "/~a-b_c.d"} {
		a := w.send(get(target)).want(200)
		url, _, _ := strings.Cut(string(a.body), "\n")
		wantEqual(t, "URL", url, "http://a"+target)
	}
}

// Whatever is in environ is in PEP 3333, in CGI, or in the shim's own page.
func TestEnvironIsDocumented(t *testing.T) {
	known := map[string]bool{}
	for _, name := range strings.Fields(`REQUEST_METHOD SCRIPT_NAME PATH_INFO QUERY_STRING
		CONTENT_TYPE CONTENT_LENGTH SERVER_NAME SERVER_PORT SERVER_PROTOCOL wsgi.version
		wsgi.url_scheme wsgi.input wsgi.errors wsgi.multithread wsgi.multiprocess wsgi.run_once`) {
		known[name] = true
	}
	page := sources(t, "../../pybridge/shim/README.md")
	for _, match := range regexp.MustCompile("`([A-Za-z_.]+)`").FindAllStringSubmatch(page, -1) {
		known[match[1]] = true
	}
	s := startCommand(t, fixture(anyPython(), "environ_dump:app", "-w", "1"))
	d := dumpOf(t, dial(t, s.url()).send(request("POST", "/", "x", "Content-Type: a/b")).want(200))
	for name := range d.Environ {
		if !known[name] && !strings.HasPrefix(name, "HTTP_") {
			t.Errorf("environ: got %s, which is documented nowhere", name)
		}
	}
}

// wsgi.input ends with the body, for every method and however often it is asked, with the next
// request already there; a line of 1 MB is one line.
func TestInputEnds(t *testing.T) {
	s := startFixtures(t, anyPython())
	w := dial(t, s.url())
	w.send(request("POST", "/input_echo/", "first") +
		request("POST", "/input_echo/lines", "sec\nond") +
		request("POST", "/input_echo/chunks", "third"))
	for _, want := range []string{"first", "sec\nond", "third"} {
		wantEqual(t, "body", string(w.want(200).body), want)
	}
	long := strings.Repeat("x", 1<<20) + "\n\r\n" + strings.Repeat("y", 100_000)
	for _, path := range []string{"/input_echo/lines", "/input_echo/"} {
		a := w.send(request("POST", path, long)).want(200)
		if string(a.body) != long {
			t.Errorf("%s: got %d bytes, or others, want %d", path, len(a.body), len(long))
		}
		if path == "/input_echo/lines" {
			wantEqual(t, "chunks", a.chunks, 3)
		}
	}
}

// A body that breaks off, by any framing, never reaches the app.
func TestBodyBreaksOff(t *testing.T) {
	s := startCommand(t, fixture(anyPython(), "close_counted:app", "-w", "1"))
	for _, part := range []string{
		"Content-Length: 10\r\n\r\nhello",
		"Content-Length: 3000000\r\n\r\n" + pattern(2_000_000),
		"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
		"Transfer-Encoding: chunked\r\n\r\n5\r\nhel",
	} {
		for _, leave := range []func(*wire){
			func(w *wire) { w.finish() },
			func(w *wire) { w.Close() },
		} {
			w := dial(t, s.url()).send("POST / HTTP/1.1\r\nHost: a\r\n" + part)
			leave(w)
			if a, err := readAnswer(w.r, false); err == nil && a.status != 400 {
				t.Errorf("%.40q: got %s, want 400 or nothing", part, a)
			}
		}
	}
	a := dial(t, s.url()).send(get("/count")).want(200)
	wantEqual(t, "calls", string(a.body), "{'made': 0, 'closed': 0}")
}

// No content coding and no range by the server itself.
func TestNothingIsRecoded(t *testing.T) {
	s := startFixtures(t, anyPython())
	for _, path := range []string{"/big_body/3/5000", "/file_wrapper_bytesio/"} {
		plain := dial(t, s.url()).send(get(path)).want(200)
		a := dial(t, s.url()).send(get(path, "Accept-Encoding: gzip, br", "Range: bytes=0-9",
			"TE: gzip", "If-None-Match: *")).want(200)
		if !bytes.Equal(a.body, plain.body) || a.get("Content-Encoding") != "" {
			t.Errorf("%s: got %s, want the same %d bytes", path, a, len(plain.body))
		}
	}
}
