package pybridge

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// waitMax is how long a test waits for anything before it fails.
const waitMax = 30 * time.Second

// pythons are the interpreters of this machine, by version: those of the virtual environments
// that `make test` makes, else pyenv's; and the system's.
func pythons(t testing.TB) map[string]string {
	t.Helper()
	found := make(map[string]string)
	if named := os.Getenv("GOPHERSNAKE_TEST_PYTHON"); named != "" {
		return map[string]string{"named": named}
	}
	root := os.Getenv("PYENV_ROOT")
	if home, err := os.UserHomeDir(); root == "" && err == nil {
		root = filepath.Join(home, ".pyenv")
	}
	for _, minor := range []string{"9", "10", "11", "12", "13", "14"} {
		for _, pattern := range []string{
			"../build/venv-3." + minor + "/bin/python",
			filepath.Join(root, "versions/3."+minor+".*/bin/python3"),
		} {
			if matches, _ := filepath.Glob(pattern); len(matches) > 0 {
				path, err := filepath.Abs(matches[0])
				if err != nil {
					t.Fatal(err)
				}
				found["3."+minor] = path
				break
			}
		}
	}
	if _, err := os.Stat("/usr/bin/python3"); err == nil {
		found["system"] = "/usr/bin/python3"
	}
	if len(found) == 0 {
		found["path"] = anyPython(t)
	}
	return found
}

// anyPython is the interpreter of tests that one is enough for.
func anyPython(t testing.TB) string {
	t.Helper()
	if named := os.Getenv("GOPHERSNAKE_TEST_PYTHON"); named != "" {
		return named
	}
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Fatal("python3 is needed: ", err)
	}
	return python
}

// onEvery runs a test on every interpreter.
func onEvery(t *testing.T, test func(t *testing.T, python string)) {
	t.Helper()
	for version, python := range pythons(t) {
		t.Run(version, func(t *testing.T) { test(t, python) })
	}
}

// process is a worker that runs one of the fixture apps, and what it has written.
type process struct {
	*Worker
	t    testing.TB
	ours []*Lane    // those that the test uses in the place of loops
	mu   sync.Mutex // over the rest
	// said is the output so far, a line each; more is closed and replaced when it grows.
	said []string
	more chan struct{}
}

// launch starts a worker; apps are named as in `--app`, from apps/.
func launch(t testing.TB, python, app string, threads int, change ...func(*Config)) *process {
	t.Helper()
	dir, err := filepath.Abs("apps")
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, more: make(chan struct{})}
	sizes := usual
	sizes.Threads = threads
	cfg := &Config{
		Python: python, App: app, Dir: dir, Sizes: sizes, Output: p.output,
		Listeners: []Listener{{ServerName: "localhost", ServerPort: "80", Scheme: "http"}},
	}
	for _, f := range change {
		f(cfg)
	}
	if p.Worker, err = Start(7, cfg); err != nil {
		t.Fatal(err)
	}
	p.claim()
	t.Cleanup(p.end)
	return p
}

// claim takes the worker's lanes as loops would.
func (p *process) claim() {
	for _, l := range p.lanes {
		if l.Doorbell() != nil {
			p.ours = append(p.ours, l)
		}
	}
}

// launchReady starts a worker and waits until its app is imported.
func launchReady(t testing.TB, python, app string, threads int,
	change ...func(*Config)) *process {
	t.Helper()
	p := launch(t, python, app, threads, change...)
	select {
	case <-p.Ready():
	case <-p.Done():
		t.Fatalf("the worker ended: %+v\n%s", p.Exit(), p.text())
	case <-time.After(waitMax):
		t.Fatalf("the worker is not ready\n%s", p.text())
	}
	return p
}

// end kills what is left and gives back what a loop would.
func (p *process) end() {
	p.Kill()
	<-p.Done()
	for _, l := range p.ours {
		_ = l.doorbell.Close()
		l.Release()
	}
}

func (p *process) output(worker int, line []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if worker != 7 {
		p.t.Errorf("output of worker %d", worker)
	}
	p.said = append(p.said, string(line))
	close(p.more)
	p.more = make(chan struct{})
}

func (p *process) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.said, "\n")
}

// await waits for a line of output.
func (p *process) await(line string) {
	p.t.Helper()
	deadline := time.After(waitMax)
	for {
		p.mu.Lock()
		said, more := p.said, p.more
		p.mu.Unlock()
		for _, s := range said {
			if s == line {
				return
			}
		}
		select {
		case <-more:
		case <-deadline:
			p.t.Fatalf("the worker did not say %q but\n%s", line, p.text())
		}
	}
}

// wantEnd waits until the process has ended, and says how.
func (p *process) wantEnd(limit time.Duration) Exit {
	p.t.Helper()
	select {
	case <-p.Done():
	case <-time.After(limit):
		p.t.Fatalf("the worker lives on after %v\n%s", limit, p.text())
	}
	return p.Exit()
}

// path is a request for a target.
func path(target string) *Request {
	head := []byte("GET " + target + " HTTP/1.1\r\nHost: a\r\n\r\n")
	line := head[4 : 4+len(target)]
	p, query, _ := bytes.Cut(line, []byte("?"))
	return &Request{
		Head: head, Method: head[:3], Target: line, Path: p, Query: query, KeepAlive: true,
		RemoteAddr: []byte("192.0.2.1"), RemotePort: 4711,
		Headers: []Header{{head[15+len(target):][:4], []byte("a")}},
	}
}

// submit hands a request to the worker.
func (p *process) submit(q *Request) (slot, generation uint32) {
	p.t.Helper()
	return mustSubmit(p.t, p.lanes[0], q)
}

// reply waits for the next reply of lane 0.
func (p *process) reply() Reply {
	p.t.Helper()
	l := p.lanes[0]
	var r Reply
	var b [64]byte
	_ = l.doorbell.SetReadDeadline(time.Now().Add(waitMax))
	for {
		ok, err := l.Next(&r)
		if err != nil {
			p.t.Fatal(err)
		}
		if ok {
			return r
		}
		if !l.Sleep() {
			continue
		}
		if _, err := l.doorbell.Read(b[:]); err != nil && !errors.Is(err, io.EOF) {
			p.t.Fatalf("no reply: %v\n%s", err, p.text())
		} else if err != nil && l.Sleep() {
			p.t.Fatalf("the worker died\n%s", p.text())
		}
	}
}

// collect waits for the whole response of a request, and returns it as it would be on the wire.
func (p *process) collect(slot, generation uint32) (wire string, last Reply) {
	p.t.Helper()
	l := p.lanes[0]
	var out strings.Builder
	for {
		r := p.reply()
		if r.Slot != slot || r.Generation != generation {
			p.t.Fatalf("reply for %d/%d, want %d/%d", r.Slot, r.Generation, slot, generation)
		}
		out.Write(r.Data)
		r.Data = nil
		l.Ack(r.Thread)
		l.FlushAcks()
		if r.Flags&ReplyLast != 0 {
			return out.String(), r
		}
	}
}

// ask sends a request and returns the response's status and body.
func (p *process) ask(q *Request) (status int, body string) {
	p.t.Helper()
	wire, _ := p.collect(p.submit(q))
	response, err := http.ReadResponse(bufio.NewReader(strings.NewReader(wire)), nil)
	if err != nil {
		p.t.Fatalf("%v in %q", err, wire)
	}
	content, err := io.ReadAll(response.Body)
	if err != nil {
		p.t.Fatalf("%v in %q", err, wire)
	}
	return response.StatusCode, string(content)
}

// want asks for a target and compares the body of the answer.
func (p *process) want(target, body string) {
	p.t.Helper()
	if status, got := p.ask(path(target)); status != 200 || got != body {
		p.t.Errorf("%s: got %d %q, want %q\n%s", target, status, got, body, p.text())
	}
}

// quit tells the worker to finish and waits for a clean exit.
func (p *process) quit() {
	p.t.Helper()
	p.Quit()
	if e := p.wantEnd(waitMax); e != (Exit{}) {
		p.t.Errorf("got %+v, want a clean exit\n%s", e, p.text())
	}
}

// signal sends one to the process.
func (p *process) signal(s unix.Signal) {
	p.t.Helper()
	if err := unix.Kill(p.PID(), s); err != nil {
		p.t.Fatal(err)
	}
}
