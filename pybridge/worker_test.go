package pybridge

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// --- start and end ---

func TestServesAndQuits(t *testing.T) {
	onEvery(t, func(t *testing.T, python string) {
		for _, threads := range []int{1, 4} {
			p := launchReady(t, python, DemoApp, threads)
			for range 200 {
				p.want("/plaintext", "Hello, World!")
			}
			p.quit()
		}
	})
}

func TestKilled(t *testing.T) {
	p := launchReady(t, anyPython(t), DemoApp, 2)
	p.Kill()
	if e := p.wantEnd(waitMax); e.Signal != unix.SIGKILL || e.Code != -1 || e.ImportFailed {
		t.Errorf("got %+v, want SIGKILL", e)
	}
	p.Kill() // and a second time, which finds no process
	p.Quit()
}

func TestImportFailures(t *testing.T) {
	onEvery(t, func(t *testing.T, python string) {
		for app, want := range map[string][]string{
			"raises_at_import": {"RuntimeError: no database at import", "in connect", "raises_at_import.py"},
			"import_error":     {"a_package_nobody_has"},
			"syntax_error":     {"SyntaxError", "syntax_error.py"},
			"exits_at_import":  {"SystemExit"},
			"no_such_module":   {"no_such_module"},
		} {
			p := launch(t, python, app, 1)
			e := p.wantEnd(waitMax)
			if e.Code != 4 || !e.ImportFailed {
				t.Errorf("%s: got %+v, want exit code 4", app, e)
			}
			for _, part := range want {
				if !strings.Contains(e.Reason, part) {
					t.Errorf("%s: no %q in\n%s", app, part, e.Reason)
				}
			}
			for _, ours := range []string{"<gophersnake>", "importlib", "<string>"} {
				if strings.Contains(e.Reason, ours) {
					t.Errorf("%s: %q in\n%s", app, ours, e.Reason)
				}
			}
			select {
			case <-p.Ready():
				t.Errorf("%s: ready", app)
			default:
			}
		}
	})
}

// TestHugeImportFailure: a report that nobody wants to read whole must not keep the worker alive.
func TestHugeImportFailure(t *testing.T) {
	p := launch(t, anyPython(t), "raises_huge", 1)
	e := p.wantEnd(waitMax)
	if e.Code != 4 || len(e.Reason) != reasonBytesMax || !strings.Contains(e.Reason, "huge huge") {
		t.Errorf("exit code %d, %d bytes of reason", e.Code, len(e.Reason))
	}
}

func TestFailedStarts(t *testing.T) {
	before := descriptors(t)
	for range 10 {
		for _, change := range []func(*Config){
			func(c *Config) { c.Python = "/no/such/python" },
			func(c *Config) { c.Dir = "/no/such/directory" },
			func(c *Config) { c.Sizes.Threads = 0 },
		} {
			cfg := &Config{Python: anyPython(t), App: DemoApp, Dir: ".", Sizes: usual}
			change(cfg)
			if w, err := Start(1, cfg); err == nil {
				t.Fatalf("started %+v", w)
			}
		}
	}
	if after := descriptors(t); !slices.Equal(before, after) {
		t.Errorf("descriptors before\n%q\nafter\n%q", before, after)
	}
}

// descriptors lists what this process has open, but for what the listing itself opens.
func descriptors(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, e := range entries {
		link, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err == nil {
			found = append(found, e.Name()+" "+strings.TrimRight(link, "0123456789[]"))
		}
	}
	return found
}

func TestNoLeaks(t *testing.T) {
	python := anyPython(t)
	cycle := func(t *testing.T) {
		p := launchReady(t, python, DemoApp, 2)
		p.want("/plaintext", "Hello, World!")
		p.quit()
	}
	t.Run("first", cycle) // opens what stays open: an epoll and an event descriptor
	before := descriptors(t)
	for i := range 20 {
		t.Run(fmt.Sprint(i), cycle)
	}
	if after := descriptors(t); !slices.Equal(before, after) {
		t.Errorf("descriptors before\n%q\nafter\n%q", before, after)
	}
}

// TestUnusedWorkersLeaveNothing: one that ends before any loop got its lanes, as each does in a
// crash loop, keeps none of its memory and descriptors.
func TestUnusedWorkersLeaveNothing(t *testing.T) {
	cycle := func(t *testing.T, app string) {
		cfg := &Config{Python: anyPython(t), App: app, Dir: ".", Sizes: usual,
			Output: func(int, []byte) {}}
		w, err := Start(1, cfg)
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-w.Done():
		case <-time.After(waitMax):
			t.Fatal("the worker lives on")
		}
		if n := w.region.refs.Load(); n != 0 {
			t.Errorf("users of the region: got %d, want 0", n)
		}
		if w.Lane(0).Doorbell() != nil {
			t.Error("a loop can have a lane of a worker that has ended")
		}
	}
	cycle(t, "no_such_module") // opens what stays open
	before := descriptors(t)
	for range 3 {
		cycle(t, "no_such_module")
	}
	if after := descriptors(t); !slices.Equal(before, after) {
		t.Errorf("descriptors before\n%q\nafter\n%q", before, after)
	}
}

// orphanMax is how long a worker may outlive its parent: GS_ORPHAN_S and one second.
const orphanMax = 6 * time.Second

// TestOrphansEnd: the end of the control socket is the end of the worker, whatever the app does.
// All of them wait together, for most take the whole of their grace.
func TestOrphansEnd(t *testing.T) {
	cases := []struct {
		app, begun string
		threads    int
	}{
		{DemoApp, "", 1}, {DemoApp, "", 4},
		{"busy", "busy: begun", 1}, {"busy", "busy: begun", 2},
		{"holds_gil", "holds_gil: begun", 1}, {"holds_gil", "holds_gil: begun", 2},
		{"live_thread", "", 2},
	}
	orphans := make([]*process, len(cases))
	for i, c := range cases {
		p := launchReady(t, anyPython(t), c.app, c.threads)
		if c.begun != "" {
			p.submit(path("/"))
			p.await(c.begun)
		}
		orphans[i] = p
	}
	begun := time.Now()
	for _, p := range orphans {
		_ = p.control.Close()
	}
	for i, c := range cases {
		e := orphans[i].wantEnd(orphanMax - time.Since(begun))
		if c.app == DemoApp && (e != (Exit{}) || time.Since(begun) > orphanMax/2) {
			t.Errorf("idle, %d threads: got %+v after %v", c.threads, e, time.Since(begun))
		}
	}
}

// --- signals and children ---

func TestSignalsAreTheParents(t *testing.T) {
	for _, threads := range []int{1, 3} {
		p := launchReady(t, anyPython(t), "sleeps", threads)
		for _, s := range []unix.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT} {
			p.signal(s)
			p.want("/0", fmt.Sprint(p.PID()))
			slot, generation := p.submit(path("/50")) // and while the app sleeps
			p.reallyBegun(slot)
			p.signal(s)
			if wire, _ := p.collect(slot, generation); !strings.HasPrefix(wire, "HTTP/1.1 200") {
				t.Errorf("%d threads, %v: got %q", threads, s, wire)
			}
		}
		if strings.Contains(p.text(), "Traceback") {
			t.Error(p.text())
		}
		p.quit()
	}
}

// reallyBegun waits until a thread has taken a request.
func (p *process) reallyBegun(slot uint32) {
	p.t.Helper()
	for deadline := time.Now().Add(waitMax); !p.lanes[0].Taken(slot); runtime.Gosched() {
		if time.Now().After(deadline) {
			p.t.Fatalf("no thread took slot %d\n%s", slot, p.text())
		}
	}
}

// TestSignalsDuringImport: Ctrl-C in a terminal reaches the whole group, at any moment.
func TestSignalsDuringImport(t *testing.T) {
	gate := filepath.Join(t.TempDir(), "gate")
	if err := unix.Mkfifo(gate, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("IMPORT_GATE", gate)
	p := launch(t, anyPython(t), "import_waits", 2)
	p.await("import_waits: begun")
	p.signal(unix.SIGINT)
	p.signal(unix.SIGTERM)
	opened := make(chan error, 1)
	go func() {
		f, err := os.OpenFile(gate, os.O_WRONLY, 0)
		if err == nil {
			err = f.Close()
		}
		opened <- err
	}()
	select {
	case <-p.Ready():
		if err := <-opened; err != nil {
			t.Error(err)
		}
		p.want("/", "imported")
	case <-p.Done():
		if f, err := os.OpenFile(gate, os.O_RDONLY|unix.O_NONBLOCK, 0); err == nil {
			<-opened // nobody else will read
			_ = f.Close()
		}
		t.Fatalf("got %+v\n%s", p.Exit(), p.text())
	case <-time.After(waitMax):
		t.Fatal("the worker is not ready")
	}
}

func TestChildrenEndBySignals(t *testing.T) {
	onEvery(t, func(t *testing.T, python string) {
		for _, threads := range []int{1, 2} {
			p := launchReady(t, python, "child_terminated", threads)
			p.want("/", "15 2")
		}
	})
}

// TestDescriptorsStayHome: a program that the app starts with close_fds=False has the three
// standard descriptors and what the shell itself opens, none of ours.
func TestDescriptorsStayHome(t *testing.T) {
	p := launchReady(t, anyPython(t), "child_descriptors", 2)
	_, body := p.ask(path("/"))
	lines := strings.Fields(body)
	if len(lines) < 3 || lines[0] != "/dev/null" {
		t.Fatalf("got %q", body)
	}
	for _, line := range lines {
		for _, ours := range []string{"memfd", "socket"} {
			if strings.Contains(line, ours) {
				t.Errorf("inherited: %s", line)
			}
		}
	}
}

// TestForkedChildren: what a child does with the request it was forked in touches no lane, and
// ends when it returns from the app.
func TestForkedChildren(t *testing.T) {
	onEvery(t, func(t *testing.T, python string) {
		p := launchReady(t, python, "forks_status", 2)
		for _, way := range []string{"", "midway", "reads", "raises", "exits", "iterates"} {
			q := path("/" + way)
			q.HasBody, q.Body = true, []byte("a body that lies in the slot")
			if status, got := p.ask(q); status != 200 || got != "0" {
				t.Errorf("%q: got %d %q, want the child's status 0", way, status, got)
			}
		}
		p.quit()
		p = launchReady(t, python, "forks_midway", 1)
		p.want("/", "status 0")
		p.want("/writes", "status 0")
		p.quit()
	})
}

// --- requests ---

// TestBlocksWithoutEnd: a thread that is faster than the loop waits for it; it never has more
// replies under way than the ring holds, also when the last ones have no block.
func TestBlocksWithoutEnd(t *testing.T) {
	p := launchReady(t, anyPython(t), "many_blocks", 1)
	l := p.lanes[0]
	for _, count := range []int{1, 60, 61, 62, 63, 64, 65, 1000} {
		for _, short := range []string{"", "?short"} {
			slot, generation := p.submit(path(fmt.Sprintf("/%d%s", count, short)))
			stuck := uint32(min(count, l.Replies()-2))
			tail := l.region.word(l.base + repTailOff)
			deadline := time.Now().Add(waitMax)
			for atomic.LoadUint32(tail)-l.repHead < stuck && time.Now().Before(deadline) {
				runtime.Gosched()
			}
			wire, last := p.collect(slot, generation)
			if !strings.HasSuffix(wire, "\r\n\r\n"+strings.Repeat("x", count)) {
				t.Errorf("%d blocks: got %d bytes", count, len(wire))
			}
			if aborted := last.Flags&ReplyAbort != 0; aborted != (short != "") {
				t.Errorf("%d blocks%s: aborted %v", count, short, aborted)
			}
		}
	}
	p.quit()
}

// dump is what environ_dump says.
type dump struct {
	Environ map[string]string
	Types   map[string]string
	Body    string
}

func (p *process) dump(q *Request) dump {
	p.t.Helper()
	_, body := p.ask(q)
	var d dump
	if err := json.Unmarshal([]byte(body), &d); err != nil {
		p.t.Fatalf("%v in %q", err, body)
	}
	return d
}

func TestEnvironOfListeners(t *testing.T) {
	listeners := []Listener{
		{ServerName: "127.0.0.1", ServerPort: "8000", Scheme: "http"},
		{ServerName: "example.org", ServerPort: "443", Scheme: "https"},
		{ServerName: "localhost", ServerPort: "80", Scheme: "http"},
	}
	onEvery(t, func(t *testing.T, python string) {
		for _, threads := range []int{1, 4} {
			p := launchReady(t, python, "environ_dump", threads, func(c *Config) {
				c.Listeners = listeners
				c.Multiprocess = threads == 1
			})
			for i, l := range listeners {
				q := path("/a%20b?x=1")
				q.Listener, q.Path = uint16(i), []byte("/a b")
				d := p.dump(q)
				https := ""
				if l.Scheme == "https" {
					https = "on"
				}
				for key, want := range map[string]string{
					"SERVER_NAME": l.ServerName, "SERVER_PORT": l.ServerPort,
					"wsgi.url_scheme": l.Scheme, "HTTPS": https,
					"wsgi.multithread":  title(threads > 1),
					"wsgi.multiprocess": title(threads == 1),
					"REQUEST_METHOD":    "GET", "PATH_INFO": "/a b", "QUERY_STRING": "x=1",
					"RAW_URI": "/a%20b?x=1", "REMOTE_ADDR": "192.0.2.1", "REMOTE_PORT": "4711",
					"HTTP_HOST": "a", "SCRIPT_NAME": "", "SERVER_PROTOCOL": "HTTP/1.1",
				} {
					if got := d.Environ[key]; got != want {
						t.Errorf("listener %d: %s is %q, want %q", i, key, got, want)
					}
				}
			}
			p.quit()
		}
	})
}

// title is a bool as Python prints it.
func title(b bool) string {
	if b {
		return "True"
	}
	return "False"
}

func TestBodiesReachTheApp(t *testing.T) {
	p := launchReady(t, anyPython(t), "environ_dump", 2)
	bellFD(t, p.lanes[0])
	for _, size := range bodySizes {
		q := path("/")
		q.HasBody, q.Body = true, bytes.Repeat([]byte("0123456789abcde\n"), size/16+1)[:size]
		if got := p.dump(q); got.Body != string(q.Body) {
			t.Errorf("%d bytes: %d arrived, or others", size, len(got.Body))
		}
		if size == 0 {
			continue
		}
		content := string(q.Body)
		q.BodyFile, q.BodyLen, q.Body = tempFile(t, content), int64(size), nil
		if got := p.dump(q); got.Body != content {
			t.Errorf("%d bytes in a file: %d arrived, or others", size, len(got.Body))
		}
	}
	p.quit()
}

func TestThreadNames(t *testing.T) {
	onEvery(t, func(t *testing.T, python string) {
		p := launchReady(t, python, "thread_name", 1)
		p.want("/", "MainThread True")
		p = launchReady(t, python, "thread_name", 3)
		if _, got := p.ask(path("/")); !slices.Contains([]string{"gophersnake-1 False",
			"gophersnake-2 False", "gophersnake-3 False"}, got) {
			t.Errorf("got %q", got)
		}
	})
}

// --- output ---

func TestForwardLines(t *testing.T) {
	long := strings.Repeat("x", outputLineMax)
	for _, c := range []struct {
		what, in string
		want     []string
	}{
		{"nothing", "", nil},
		{"one line", "a\n", []string{"a"}},
		{"no newline at the end", "a\nb", []string{"a", "b"}},
		{"empty lines", "\n\na\n", []string{"", "", "a"}},
		{"carriage returns stay", "a\r\n", []string{"a\r"}},
		{"just short enough", long[1:] + "\n", []string{long[1:]}},
		{"a byte too long", long + "\nb\n", []string{long, "", "b"}},
		{"longer", long + long + "y\n", []string{long, long, "y"}},
	} {
		for _, step := range []int{1 << 20, 1} { // whole, then byte by byte
			if got := forwarded(t, c.in, step); !slices.Equal(got, c.want) {
				t.Errorf("%s, by %d: got %d lines %.50q, want %d lines %.50q", c.what, step,
					len(got), got, len(c.want), c.want)
			}
		}
	}
}

// forwarded is what forwardLines makes of a text that is written in steps of so many bytes.
func forwarded(t *testing.T, text string, step int) (lines []string) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for part := range slices.Chunk([]byte(text), step) {
			_, _ = w.Write(part)
		}
		_ = w.Close()
	}()
	if late := forwardLines(r, func(line []byte) { lines = append(lines, string(line)) }); late {
		t.Error("late without a deadline")
	}
	_ = r.Close()
	return lines
}

// TestLastWords: what was written before the deadline is read after it; nothing is waited for, and
// who goes on writing is not read for ever.
func TestLastWords(t *testing.T) {
	text := strings.Repeat("x", 30_000)
	for _, c := range []struct {
		name, text, want string
		closed           bool
		after            int
		err              error
	}{
		{"silent", "", "", false, 0, os.ErrDeadlineExceeded},
		{"lives on", text, text, false, 0, os.ErrDeadlineExceeded},
		{"ends", text, text, true, 0, nil},
		{"endless", text, "", false, lastWordsBytesMax, os.ErrDeadlineExceeded},
	} {
		t.Run(c.name, func(t *testing.T) {
			ours, theirs, err := socketPair("control")
			if err != nil {
				t.Fatal(err)
			}
			defer ours.Close()
			defer theirs.Close()
			if _, err := io.WriteString(theirs, c.text); err != nil {
				t.Fatal(err)
			}
			if c.closed {
				_ = theirs.Close()
			}
			_ = ours.SetReadDeadline(time.Unix(0, 1))
			got, err := io.ReadAll(&lastWords{f: ours, after: c.after})
			if string(got) != c.want || !errors.Is(err, c.err) {
				t.Errorf("got %d bytes, %v, want %d, %v", len(got), err, len(c.want), c.err)
			}
		})
	}
}

// ended is a process that has ended already.
type ended struct{}

func (ended) pid() int   { return 0 }
func (ended) kill()      {}
func (ended) quit()      {}
func (ended) wait() Exit { return Exit{Code: 4} }

// TestLateListeners: the reports and lines of a worker that has ended are taken whole, also by a
// goroutine that gets no CPU while they are waited for, and while a program of the app's holds the
// other ends. What that program says later is forwarded too.
func TestLateListeners(t *testing.T) {
	ours, theirs, err := socketPair("control")
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	output, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer write.Close()
	w := newWorker(1, nil)
	w.control = ours
	_ = ours.SetReadDeadline(time.Unix(0, 1)) // over before listen looks
	long := strings.Repeat("x", outputLineMax-1)
	for to, text := range map[*os.File]string{
		theirs: "iwhy", write: "first\n" + long + "\nlast\n",
	} {
		if _, err := io.WriteString(to, text); err != nil {
			t.Fatal(err)
		}
	}
	lines := make(chan string, 10)
	w.attend(ended{}, output, func(line []byte) {
		if lines <- string(line); string(line) == "first" {
			select {
			case <-w.Done():
			case <-time.After(2 * outputGrace):
			}
		}
	})
	select {
	case <-w.Done():
	case <-time.After(waitMax):
		t.Fatal("the end is not noticed while others hold the pipe and the socket")
	}
	if e := w.Exit(); !e.ImportFailed || e.Reason != "why" {
		t.Errorf("got %+v, want the report of the import", e)
	}
	if n := len(lines); n != 3 {
		t.Fatalf("got %d lines, want 3", n)
	}
	for _, want := range []string{"first", long, "last", "later"} {
		if want == "later" {
			_, _ = io.WriteString(write, "later\n")
		}
		if got := <-lines; got != want {
			t.Errorf("got %.20q, want %.20q", got, want)
		}
	}
}

func TestOutput(t *testing.T) {
	p := launchReady(t, anyPython(t), "prints", 2)
	p.want("/", "printed")
	p.await("prints: to stdout")
	p.await("prints: to stderr")
	p.quit()
}
