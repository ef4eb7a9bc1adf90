package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"gophersnake/loop"
	"gophersnake/server/internal/control"
	"gophersnake/server/internal/supervise"
)

// Stats and Requests are those of a reactor that has one worker, which runs one request.
func (e *fakeEngine) Stats() loop.Stats {
	return loop.Stats{Answers: [6]uint64{2: 40, 5: 2}, InFlight: 0,
		Unavailable: map[string]uint64{"queue": 2, "other": 0}, Stolen: 7, Corrupt: 1,
		Workers: []loop.WorkerStats{{ID: 1, Threads: 4, Served: 42}}}
}

func (e *fakeEngine) Requests() []loop.RunningRequest {
	return []loop.RunningRequest{
		{Worker: 1, Thread: 2, Method: "GET", Path: "/slow", Age: 3 * time.Second,
			State: loop.RequestRunning},
		{Worker: 1, Thread: -1, Method: "GET", Path: "/next", State: loop.RequestWaiting},
		{Thread: -1, Method: "POST", Path: "/queued", State: loop.RequestQueued},
		{Worker: 99, Thread: -1, Method: "GET", Path: "/gone", State: loop.RequestRunning},
	}
}

// controlled is a server among fakes with a control socket.
func controlled(t *testing.T, onBoot func(*fakeWorker), args ...string) (b *bench, path string) {
	path = filepath.Join(t.TempDir(), "ctl")
	b = &bench{t: t, stderr: newConsole(), signals: make(chan os.Signal, signalsMax),
		code: make(chan int, 1), engine: &fakeEngine{onBoot: onBoot,
			idle: make(chan struct{}), failed: make(chan error, 1)}}
	p := process{stdout: &bytes.Buffer{}, stderr: b.stderr, signals: b.signals,
		getenv:     func(string) string { return "" },
		newEngine:  func(engineSpec) (engine, error) { return b.engine, nil },
		stopItself: func() error { b.signals <- syscall.SIGTERM; return nil }}
	args = append(args, "shop:app", "--listen=127.0.0.1:0", "--control-socket", path)
	go func() { b.code <- execute(args, p) }()
	return b, path
}

// ctl runs a command line that talks to the server.
func ctl(path string, args ...string) (code int, out, errs string) {
	var stdout bytes.Buffer
	stderr := newConsole()
	code = execute(append(args, "--control-socket", path), process{stdout: &stdout,
		stderr: stderr, getenv: func(string) string { return "" }})
	return code, stdout.String(), stderr.String()
}

func TestCtl(t *testing.T) {
	b, path := controlled(t, boots, "-w1")
	close(b.engine.idle)
	b.stderr.wait(t, listening)
	wantJSON(t, path)
	for _, c := range []struct {
		args string
		code int
		want string // in what it prints
	}{
		{"ctl status", 0, "1 of 1 ready × 4 threads, 1 loop; generation 1, 0 restarts\n"},
		{"ctl status", 0, "queue 2\n"},
		{"ctl status", 0, "7 from busy workers to idle ones, 0 from dead ones\n"},
		{"ctl status", 0, "0 panics, 1 worker that broke the shared memory"},
		{"ctl workers", 0, "1       1    1    ready  "},
		{"ctl threads", 0, "  3  3.0 s  GET  /slow  running\n"},
		{"ctl threads", 0, "  idle: 1,2,4\n"},
		{"ctl threads", 0, "queue: 1 request\n  -  0 ms  POST  /queued  queued\n"},
		{"ctl stacks", 0, "worker 1 (pid 1)\n"},
		{"ctl stacks 1", 0, "worker 1 (pid 1)\n"},
		{"ctl stacks 7", 1, "gophersnake: there is no worker 7\n"},
		{"ctl recycle 7", 1, "gophersnake: no worker has that number"},
		{"ctl reload", 0, ": generation 2 serves\n"},
		{"reload", 0, ": generation 3 serves\n"},
		{"ctl status", 0, "ago, took "},
		{"ctl recycle --all", 0, "all workers recycled in "},
		{"ctl scale 2", 0, "scaled to 2 workers\n"},
		{"ctl status", 0, "of 2 ready"},
		{"ctl scale 513", 1, "at most 512 are possible"},
		{"ctl scale 0", 2, `give the number of workers to have, not "0"`},
		{"ctl scale", 2, "gophersnake: give the number of workers to have\n"},
		{"ctl recycle", 2, "give the number of a worker, or --all"},
		{"ctl recycle 1 --all", 2, "not both"},
		{"ctl stacks x", 2, "give the number of a worker"},
		{"ctl status now", 2, "takes no argument"},
		{"ctl status --jsn", 2, "--jsn; gophersnake ctl status --help lists the flags"},
		{"ctl dance", 2, "there is no command ctl dance"},
		{"ctl", 2, "no command given"},
	} {
		code, out, errs := ctl(path, strings.Fields(c.args)...)
		if code != c.code || !strings.Contains(out+errs, c.want) {
			t.Errorf("%s: code %d and %q, want %d and %q", c.args, code, out+errs, c.code, c.want)
		}
	}
	wantDrained(t, path)
	if code, out, errs := ctl(path, "stop"); code != 0 || !strings.Contains(out, "stopped in ") {
		t.Errorf("stop: code %d and %q, want 0", code, out+errs)
	}
	b.wantCode(exitClean)
	if code, _, errs := ctl(path, "ctl", "status"); code != exitNoOne {
		t.Errorf("after the end: code %d and %q, want %d", code, errs, exitNoOne)
	}
}

func wantJSON(t *testing.T, path string) {
	t.Helper()
	_, out, _ := ctl(path, "ctl", "status", "-j")
	var status control.Status
	if err := json.Unmarshal([]byte(out), &status); err != nil || status.State != "serving" ||
		status.Served != 42 || status.App != "shop:app" || len(status.Listeners) != 1 {
		t.Errorf("got %+v and %v of %s", status, err, out)
	}
	_, out, _ = ctl(path, "ctl", "threads", "--json")
	var threads control.Threads
	if err := json.Unmarshal([]byte(out), &threads); err != nil || len(threads.Workers) != 1 ||
		len(threads.Workers[0].Running) != 1 || len(threads.Workers[0].Waiting) != 1 {
		t.Errorf("got %+v and %v of %s", threads, err, out)
	}
}

// wantDrained: a drained server still answers its control socket; only stop ends it.
func wantDrained(t *testing.T, path string) {
	t.Helper()
	if code, out, errs := ctl(path, "ctl", "drain"); code != 0 ||
		!strings.Contains(out, "accepts no clients any more") {
		t.Errorf("drain: code %d and %q, want 0", code, out+errs)
	}
	if _, out, _ := ctl(path, "ctl", "status"); !strings.Contains(out, "draining for") {
		t.Errorf("status: got %q, want draining", out)
	}
}

// Whoever stops the server hears that requests were cut off.
func TestStopThatCutsOff(t *testing.T) {
	b, path := controlled(t, boots, "-w1", "--graceful-timeout=10ms")
	b.stderr.wait(t, listening)
	code, out, errs := ctl(path, "stop")
	if code != 1 || !strings.Contains(errs, "requests were cut off") {
		t.Errorf("code %d and %q, want 1 and why", code, out+errs)
	}
	b.wantCode(exitRuntime)
}

// A new version that cannot be imported: the old one serves on, and ctl says why.
func TestCtlReloadOfABrokenVersion(t *testing.T) {
	broken := false // only the supervisor's goroutine starts workers, after the first one is ready
	b, path := controlled(t, func(w *fakeWorker) {
		if !broken {
			broken = true
			close(w.ready)
			return
		}
		w.die(supervise.Exit{Code: 4, ImportFailed: true,
			Reason: "  File \"shop.py\", line 1\nImportError: no shop"})
	}, "-w1")
	b.stderr.wait(t, listening)
	code, out, errs := ctl(path, "reload")
	if code != 1 || out != "" || !strings.Contains(errs, "line 1\nImportError: no shop") {
		t.Errorf("code %d, %q and %q, want 1 and the traceback", code, out, errs)
	}
	wantStatus(t, path, "generation 1, 1 restart")
	wantStatus(t, path, "FAILED: ImportError: no shop")
	close(b.engine.idle)
	b.signals <- syscall.SIGTERM
	b.wantCode(exitClean)
}

// A server whose socket another one has goes on without, and comes to it when the other ends.
func TestSocketOfAnotherServer(t *testing.T) {
	first, path := controlled(t, boots, "-w1")
	first.stderr.wait(t, listening)
	second := start(t, boots, "blog:app", "-w1", "--listen=127.0.0.1:0", "--control-socket", path)
	second.stderr.wait(t, "going on without a control (socket).*another server answers there")
	second.stderr.wait(t, listening)
	close(first.engine.idle)
	first.signals <- syscall.SIGTERM
	first.wantCode(exitClean)
	second.stderr.wait(t, "INFO  control socket path=(/)")
	if _, out, errs := ctl(path, "ctl", "status"); !strings.Contains(out, "blog:app") {
		t.Errorf("got %q, want the second server", out+errs)
	}
	close(second.engine.idle)
	second.signals <- syscall.SIGTERM
	second.wantCode(exitClean)
}

// wantStatus polls: deaths are counted beside whoever is told of them first.
func wantStatus(t *testing.T, path, want string) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(waitMax); ; <-tick.C {
		_, out, errs := ctl(path, "ctl", "status")
		if strings.Contains(out, want) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("status: got %q, want %q in it", out+errs, want)
		}
	}
}

func TestCtlIsInterrupted(t *testing.T) {
	importing := make(chan *fakeWorker, 1)
	first := true // as above
	b, path := controlled(t, func(w *fakeWorker) {
		if first {
			first = false
			close(w.ready)
			return
		}
		importing <- w
	}, "-w1")
	b.stderr.wait(t, listening)
	signals := make(chan os.Signal, 1)
	stderr, code := newConsole(), make(chan int)
	go func() {
		code <- execute([]string{"reload", "--control", path}, process{stdout: &bytes.Buffer{},
			stderr: stderr, getenv: func(string) string { return "" }, signals: signals})
	}()
	loading := <-importing
	signals <- syscall.SIGINT
	if got := <-code; got != exitForced || !strings.Contains(stderr.String(), "goes on") {
		t.Errorf("code %d and %q, want %d", got, stderr, exitForced)
	}
	close(loading.ready)
	wantStatus(t, path, "last reload") // it went on, and is told of
	wantStatus(t, path, "generation 2")
	close(b.engine.idle)
	b.signals <- syscall.SIGTERM
	b.wantCode(exitClean)
}

func TestDirectoriesAreCompared(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	want, err := resolved(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := resolved(link); got != want || err != nil {
		t.Errorf("got %q and %v, want %q", got, err, want)
	}
	if _, err := resolved(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want that it does not exist", err)
	}
}

// What the environment of the server says holds for ctl too, and flags are stronger.
func TestWhereCtlLooks(t *testing.T) {
	dir, runtime := t.TempDir(), t.TempDir()
	env := map[string]string{"XDG_RUNTIME_DIR": runtime}
	getenv := func(name string) string { return env[name] }
	place := control.Place{Getenv: getenv, UID: os.Geteuid(), Temp: runtime, System: "/dev/null/x"}
	at, err := resolved(dir)
	if err != nil {
		t.Fatal(err)
	}
	path, err := place.Path(at, at, 7)
	if err != nil {
		t.Fatal(err)
	}
	socket, err := control.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	p := process{getenv: getenv, sockets: func(func(string) string) control.Place { return place }}
	for _, c := range []struct {
		socket, dir, envSocket, envDir, want string
	}{
		{dir: dir, want: path},
		{envDir: dir, want: path},
		{envSocket: "/s", want: "/s"},
		{envSocket: "/s", envDir: dir, want: "/s"},
		{envSocket: "/s", dir: dir, want: path},
		{socket: "/t", dir: dir, envSocket: "/s", want: "/t"},
		{envSocket: "off", want: "error"},
		{envDir: "/none", want: "error"},
		{dir: filepath.Dir(dir), want: "error"},
	} {
		env["GOPHERSNAKE_CONTROL_SOCKET"], env["GOPHERSNAKE_CHDIR"] = c.envSocket, c.envDir
		got, err := (&caller{process: p, socket: c.socket, dir: c.dir}).locate()
		if c.envDir == "/none" && !strings.Contains(fmt.Sprint(err), `--chdir "/none": no such`) {
			t.Errorf("%+v: %v, want the directory's name", c, err)
		}
		if err != nil {
			got = "error"
		}
		if got != c.want {
			t.Errorf("%+v: got %q (%v)", c, got, err)
		}
	}
}
