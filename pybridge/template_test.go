package pybridge

import (
	"fmt"
	"os"
	"path/filepath"
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
