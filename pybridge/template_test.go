package pybridge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// family is a template and the workers that a test has it fork.
type family struct {
	*Template
	t       testing.TB
	mu      sync.Mutex // over the rest
	workers map[int]*process
	said    []string // by the template itself
}

// preload starts a template of one of the fixture apps.
func preload(t testing.TB, python, app string, threads int) *family {
	t.Helper()
	dir, err := filepath.Abs("apps")
	if err != nil {
		t.Fatal(err)
	}
	f := &family{t: t, workers: map[int]*process{}}
	sizes := usual
	sizes.Threads = threads
	cfg := &Config{Python: python, App: app, Dir: dir, Sizes: sizes, Output: f.output,
		Listeners: []Listener{{ServerName: "localhost", ServerPort: "80", Scheme: "http"}}}
	if f.Template, err = StartTemplate(cfg, f.hear); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.self.Kill()
		<-f.Done()
	})
	return f
}

func (f *family) output(worker int, line []byte) {
	f.mu.Lock()
	p := f.workers[worker]
	f.mu.Unlock()
	p.output(7, line)
}

func (f *family) hear(line []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.said = append(f.said, string(line))
}

func (f *family) text() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.said, "\n")
}

// order starts a worker and waits for nothing.
func (f *family) order(id int) *process {
	f.t.Helper()
	p := &process{t: f.t, more: make(chan struct{})}
	f.mu.Lock()
	f.workers[id] = p
	f.mu.Unlock()
	w, err := f.Start(id)
	if err != nil {
		f.t.Fatal(err)
	}
	p.Worker = w
	p.claim()
	f.t.Cleanup(p.end)
	return p
}

// fork starts a worker and waits until it is ready.
func (f *family) fork(id int) *process {
	f.t.Helper()
	p := f.order(id)
	select {
	case <-p.Ready():
	case <-p.Done():
		f.t.Fatalf("worker %d ended: %+v\n%s\n%s", id, p.Exit(), p.text(), f.text())
	case <-time.After(waitMax):
		f.t.Fatalf("worker %d is not ready\n%s\n%s", id, p.text(), f.text())
	}
	return p
}

func TestForksServe(t *testing.T) {
	onEvery(t, func(t *testing.T, python string) {
		for _, threads := range []int{1, 3} {
			f := preload(t, python, DemoApp, threads)
			first, second := f.fork(1), f.fork(2)
			for range 50 {
				first.want("/plaintext", "Hello, World!")
				second.want("/plaintext", "Hello, World!")
			}
			if parent := parentOf(t, first.PID()); parent != os.Getpid() {
				t.Errorf("parent of a worker: got %d, want %d", parent, os.Getpid())
			}
			first.quit()
			second.want("/plaintext", "Hello, World!")
			second.Kill()
			if e := second.wantEnd(waitMax); e.Signal != unix.SIGKILL || e.Code != -1 {
				t.Errorf("got %+v, want SIGKILL", e)
			}
			f.fork(3).quit()
			f.End()
			if e := f.wantEnd(); e != (Exit{}) {
				t.Errorf("the template: got %+v, want a clean exit\n%s", e, f.text())
			}
		}
	})
}

func (f *family) wantEnd() Exit {
	f.t.Helper()
	select {
	case <-f.Done():
	case <-time.After(waitMax):
		f.t.Fatalf("the template lives on\n%s", f.text())
	}
	return f.Exit()
}

func parentOf(t *testing.T, pid int) int {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	var state string
	var parent int
	_, after, _ := strings.Cut(string(stat), ") ")
	if _, err := fmt.Sscan(after, &state, &parent); err != nil {
		t.Fatal(err)
	}
	return parent
}

// TestForksAreOneFork: an app's functions of os.register_at_fork run once on each side, in the
// child with the output of its own, and the worker knows its number.
func TestForksAreOneFork(t *testing.T) {
	onEvery(t, func(t *testing.T, python string) {
		f := preload(t, python, "forked", 1)
		var numbers []string
		for i, ran := range []string{"before,child", "before,parent,before,child"} {
			id := i + 1
			p := f.fork(id)
			_, body := p.ask(path("/"))
			got, random, _ := strings.Cut(body, "0.")
			if want := fmt.Sprintf("%d %s %d ", id, ran, f.PID()); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
			p.await("forked: in the child")
			numbers = append(numbers, random)
		}
		if numbers[0] == numbers[1] || numbers[0] == "" {
			t.Errorf("random numbers: got %q, want two", numbers)
		}
		if f.text() != "" {
			t.Errorf("the template said %q, want nothing", f.text())
		}
	})
}

// TestTemplateImportFails: who waits for a template ends as if it had imported the app itself.
func TestTemplateImportFails(t *testing.T) {
	for app, want := range map[string]Exit{
		"raises_at_import": {Code: 4, ImportFailed: true, Reason: "RuntimeError: no database"},
		"dies_at_import":   {Code: 9},
	} {
		f := preload(t, anyPython(t), app, 1)
		for _, p := range []*process{f.order(1), f.order(2)} {
			got := p.wantEnd(waitMax)
			if !strings.Contains(got.Reason, want.Reason) {
				t.Errorf("%s: got reason %q, want %q in it", app, got.Reason, want.Reason)
			}
			got.Reason = want.Reason
			if got != want || p.PID() != 0 {
				t.Errorf("%s: got %+v and pid %d, want %+v and none", app, got, p.PID(), want)
			}
		}
	}
}

// TestEndedBeforeTheFork: a worker that is told to quit while the app is imported is gone at once,
// and harms nobody; one that is killed then takes the import with it, for it took too long.
func TestEndedBeforeTheFork(t *testing.T) {
	gate := filepath.Join(t.TempDir(), "gate")
	if err := unix.Mkfifo(gate, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("IMPORT_GATE", gate)
	f := preload(t, anyPython(t), "import_waits", 1)
	quits, stays := f.order(1), f.order(2)
	quits.Quit()
	if e := quits.wantEnd(waitMax); e != (Exit{}) {
		t.Errorf("told to quit: got %+v, want a clean exit", e)
	}
	open, err := os.OpenFile(gate, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_ = open.Close()
	<-stays.Ready()
	stays.want("/", "imported")

	f = preload(t, anyPython(t), "import_waits", 1)
	killed := f.order(1)
	killed.Kill()
	if e := killed.wantEnd(waitMax); e.Signal != unix.SIGKILL {
		t.Errorf("killed: got %+v, want SIGKILL", e)
	}
	if e := f.wantEnd(); e.Signal != unix.SIGKILL {
		t.Errorf("its template: got %+v, want SIGKILL", e)
	}
}

// TestHangsAtFork: a worker is killed as any other while the app's functions hang.
func TestHangsAtFork(t *testing.T) {
	f := preload(t, anyPython(t), "fork_hangs", 1)
	p := f.order(1)
	p.await("fork_hangs: begun")
	p.Kill()
	if e := p.wantEnd(waitMax); e.Signal != unix.SIGKILL {
		t.Errorf("got %+v, want SIGKILL", e)
	}
	f.order(2).await("fork_hangs: begun")
}

// TestTemplateDies: its workers live on; who comes later ends as it did.
func TestTemplateDies(t *testing.T) {
	f := preload(t, anyPython(t), DemoApp, 2)
	p := f.fork(1)
	if err := unix.Kill(f.PID(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if e := f.wantEnd(); e.Signal != unix.SIGKILL {
		t.Errorf("got %+v, want SIGKILL", e)
	}
	if e := f.order(2).wantEnd(waitMax); e.Signal != unix.SIGKILL {
		t.Errorf("the next worker: got %+v, want SIGKILL", e)
	}
	p.want("/plaintext", "Hello, World!")
	p.quit()
}

// TestTemplateDiesAmidForks: whenever it dies, a worker is either whole or gone.
func TestTemplateDiesAmidForks(t *testing.T) {
	for round := range 4 {
		f := preload(t, anyPython(t), DemoApp, 1)
		first := f.fork(1)
		var others []*process
		for id := range 8 {
			others = append(others, f.order(2+id))
		}
		for range round { // a different moment each time
			first.want("/plaintext", "Hello, World!")
		}
		if err := unix.Kill(f.PID(), unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		f.wantEnd()
		for _, p := range others {
			select {
			case <-p.Ready():
				p.want("/plaintext", "Hello, World!")
			case <-p.Done():
				if e := p.Exit(); e == (Exit{}) {
					t.Errorf("round %d: got %+v, want a reason", round, e)
				}
			case <-time.After(waitMax):
				t.Fatalf("round %d: worker %d is neither ready nor gone", round, p.ID())
			}
		}
	}
}

// TestBegin: a worker that has been let go has its process, and what was asked of it before; one
// that cannot be let go has none, and its birth can end.
func TestBegin(t *testing.T) {
	for _, c := range []struct {
		name         string
		killed, told bool
		gone         bool
		orders       string
		exit         Exit
	}{
		{name: "free", orders: "g"},
		{name: "told", told: true, orders: "gq"},
		{name: "killed", killed: true, orders: "g", exit: Exit{Code: -1, Signal: unix.SIGKILL}},
		{name: "gone", gone: true, exit: Exit{Code: -1, Reason: "gone"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := exec.Command("cat")
			input, err := cmd.StdinPipe()
			if err == nil {
				err = cmd.Start()
			}
			if err != nil {
				t.Fatal(err)
			}
			ours, theirs, err := socketPair("control")
			if err != nil {
				t.Fatal(err)
			}
			w := newWorker(1, nil)
			w.control = ours
			b := &birth{template: &Template{self: newWorker(0, nil)}, worker: w, state: ordered,
				killed: c.killed, told: c.told}
			if c.gone {
				_ = theirs.Close()
			}
			released := make(chan int, 1)
			orders := make(chan string, 1)
			go func() {
				first := make([]byte, 1)
				_, _ = theirs.Read(first)
				released <- b.pid()
				rest, _ := io.ReadAll(theirs)
				_ = theirs.Close()
				orders <- string(bytes.TrimRight(first, "\x00")) + string(rest)
			}()
			err = b.begin(cmd.Process)
			_ = ours.Close()
			_ = input.Close()
			want := cmd.Process.Pid
			if c.gone {
				want = 0
			}
			if got := <-released; got != want || (err != nil) != c.gone {
				t.Errorf("pid: got %d, %v, want %d", got, err, want)
			}
			if got := <-orders; got != c.orders {
				t.Errorf("orders: got %q, want %q", got, c.orders)
			}
			_ = cmd.Wait()
			if got := exitOf(cmd.ProcessState); !c.gone && got != c.exit {
				t.Errorf("exit: got %+v, want %+v", got, c.exit)
			}
			if c.gone {
				if got := b.stillborn(errors.New("gone")); got != c.exit {
					t.Errorf("exit: got %+v, want %+v", got, c.exit)
				}
			}
		})
	}
}

// TestThreadsAreLost: threads of the import are named, for no worker has them.
func TestThreadsAreLost(t *testing.T) {
	f := preload(t, anyPython(t), "live_thread", 2)
	f.fork(1).want("/", "alive")
	tick := time.NewTicker(10 * time.Millisecond) // the line comes by another way than the answer
	defer tick.Stop()
	const want = "do not exist in the workers: Thread-1"
	for end := time.Now().Add(waitMax); !strings.Contains(f.text(), want); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("got %q, want a warning that names the thread", f.text())
		}
	}
}

func TestSignalsDoNotEndTemplates(t *testing.T) {
	f := preload(t, anyPython(t), DemoApp, 2)
	f.fork(1)
	for _, s := range []unix.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT} {
		if err := unix.Kill(f.PID(), s); err != nil {
			t.Fatal(err)
		}
	}
	p := f.fork(2)
	p.signal(unix.SIGTERM)
	p.want("/plaintext", "Hello, World!")
}

// TestForksTellTheirStacks: also while a thread holds the GIL.
func TestForksTellTheirStacks(t *testing.T) {
	p := preload(t, anyPython(t), "holds_gil", 2).fork(1)
	p.submit(path("/"))
	p.await("holds_gil: begun")
	text, err := p.Stacks(context.Background())
	if err != nil || !strings.Contains(text, "holds_gil.py") {
		t.Errorf("got %v and %q, want a line of the app", err, text)
	}
}

// TestForksInheritNothing: neither the template's descriptors nor those of other workers, and
// neither we nor the template keep any.
func TestForksInheritNothing(t *testing.T) {
	f := preload(t, anyPython(t), "child_descriptors", 2)
	first := f.fork(1)
	ours, template := descriptors(t), descriptorCount(t, f.PID())
	for id := range 20 {
		p := f.fork(2 + id)
		if id == 0 {
			if got, want := descriptorCount(t, p.PID()), descriptorCount(t, first.PID()); got != want {
				t.Errorf("second worker: got %d descriptors, want %d as the first", got, want)
			}
		}
		p.end()
	}
	if got := descriptorCount(t, f.PID()); got != template {
		t.Errorf("template: got %d descriptors after 20 forks, want %d", got, template)
	}
	_, body := first.ask(path("/"))
	for _, line := range strings.Fields(body) {
		if strings.Contains(line, "memfd") || strings.Contains(line, "socket") {
			t.Errorf("a program of the app's inherits %s", line)
		}
	}
	if after := descriptors(t); !slices.Equal(ours, after) {
		t.Errorf("descriptors before\n%q\nafter\n%q", ours, after)
	}
}

func descriptorCount(t *testing.T, pid int) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
