package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gophersnake/server/internal/supervise"
)

// waitMax bounds every wait of these tests; it is reached only when one fails.
const waitMax = 20 * time.Second

// console collects stderr and lets a test wait for a text.
type console struct {
	mu      sync.Mutex
	text    bytes.Buffer
	changed chan struct{} // closed and replaced at each write
}

func newConsole() *console { return &console{changed: make(chan struct{})} }

func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.changed)
	c.changed = make(chan struct{})
	return c.text.Write(p)
}

func (c *console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.String()
}

// wait returns what the pattern's first group matched as soon as it matches.
func (c *console) wait(t *testing.T, pattern string) string {
	t.Helper()
	deadline := time.After(waitMax)
	for {
		c.mu.Lock()
		changed, text := c.changed, c.text.String()
		c.mu.Unlock()
		if m := regexp.MustCompile(pattern).FindStringSubmatch(text); m != nil {
			return m[len(m)-1]
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("stderr has no %s:\n%s", pattern, text)
		}
	}
}

// fakeWorker and fakeEngine stand in for processes and the reactor.
type fakeWorker struct {
	id          int
	ready, done chan struct{}
	exit        supervise.Exit
	once        sync.Once
}

func (w *fakeWorker) ID() int                { return w.id }
func (w *fakeWorker) PID() int               { return w.id }
func (w *fakeWorker) Ready() <-chan struct{} { return w.ready }
func (w *fakeWorker) Done() <-chan struct{}  { return w.done }
func (w *fakeWorker) Exit() supervise.Exit   { return w.exit }
func (w *fakeWorker) Quit()                  { w.die(supervise.Exit{}) }
func (w *fakeWorker) Kill()                  { w.die(supervise.Exit{Signal: 9}) }

func (w *fakeWorker) die(exit supervise.Exit) {
	w.once.Do(func() { w.exit = exit; close(w.done) })
}

type fakeEngine struct {
	spec   engineSpec
	onBoot func(*fakeWorker)
	idle   chan struct{} // closed: no request is in flight
	failed chan error
	opened []net.Listener
	stuck  atomic.Bool // a loop does not answer
}

func (e *fakeEngine) Remove(supervise.Worker)        {}
func (e *fakeEngine) Finished() <-chan struct{}      { return e.idle }
func (e *fakeEngine) Abort(supervise.Worker)         {}
func (e *fakeEngine) Aborted() uint64                { return 0 }
func (e *fakeEngine) Served(supervise.Worker) uint64 { return 0 }
func (e *fakeEngine) NoWorkers(string, time.Time)    {}
func (e *fakeEngine) Retired(int)                    {}
func (e *fakeEngine) Failed() <-chan error           { return e.failed }
func (e *fakeEngine) Close(context.Context) error    { return nil }

func (e *fakeEngine) Switch(_, out []supervise.Worker) (<-chan struct{}, []<-chan struct{}) {
	idle := make([]<-chan struct{}, len(out))
	for i := range idle {
		idle[i] = e.idle
	}
	done := make(chan struct{})
	close(done)
	return done, idle
}

func (e *fakeEngine) Stacks(_ context.Context, worker int) (string, error) {
	return fmt.Sprintf("Thread of %d:\n  File \"shop.py\"", worker), nil
}

func (e *fakeEngine) HandOver()              { e.CloseDoors() }
func (e *fakeEngine) Settle(context.Context) {}

func (e *fakeEngine) Alive(context.Context) error {
	if e.stuck.Load() {
		return errors.New("loop 0 does not answer")
	}
	return nil
}

func (e *fakeEngine) Open(l net.Listener) error {
	e.opened = append(e.opened, l)
	return nil
}

func (e *fakeEngine) CloseDoors() {
	for _, l := range e.opened {
		l.Close()
	}
}

func (e *fakeEngine) Start(id, _ int) (supervise.Worker, error) {
	w := &fakeWorker{id: id, ready: make(chan struct{}), done: make(chan struct{})}
	e.onBoot(w)
	return w, nil
}

// bench is a command being run among fakes.
type bench struct {
	t       *testing.T
	engine  *fakeEngine
	stderr  *console
	signals chan os.Signal
	code    chan int
}

func start(t *testing.T, onBoot func(*fakeWorker), args ...string) *bench {
	return startIn(t, nil, onBoot, args...)
}

// startIn is start for a process that has inherited something.
func startIn(t *testing.T, in *inheritance, onBoot func(*fakeWorker), args ...string) *bench {
	b := &bench{t: t, stderr: newConsole(), signals: make(chan os.Signal, signalsMax),
		code: make(chan int, 1), engine: &fakeEngine{onBoot: onBoot,
			idle: make(chan struct{}), failed: make(chan error, 1)}}
	p := process{stdout: &bytes.Buffer{}, stderr: b.stderr, signals: b.signals,
		getenv: func(string) string { return "" }, inherited: in,
		newEngine: func(spec engineSpec) (engine, error) {
			b.engine.spec = spec
			return b.engine, nil
		}}
	go func() { b.code <- execute(args, p) }()
	return b
}

func (b *bench) wantCode(want int) {
	b.t.Helper()
	select {
	case got := <-b.code:
		if got != want {
			b.t.Errorf("exit code %d, want %d; stderr:\n%s", got, want, b.stderr)
		}
	case <-time.After(waitMax):
		b.t.Fatalf("still running; stderr:\n%s", b.stderr)
	}
}

func boots(w *fakeWorker) { close(w.ready) }

const listening = `listening on (http://\S+|unix:\S+)`

func TestBannerNamesWhatIsServed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	b := start(t, boots, "serve", "shop:app", "-w2", "-t3", "--loops=1", "-b", "127.0.0.1:0",
		"-b", "unix:"+path)
	url := b.stderr.wait(t, listening)
	b.stderr.wait(t, "listening on unix:"+path+"\n")
	for _, want := range []string{"gophersnake " + version + ", CPython 3", "app shop:app",
		"2 workers × 3 threads, 1 loop\n"} {
		b.stderr.wait(t, regexp.QuoteMeta(want)+"()")
	}
	if lines := strings.Count(b.stderr.String(), "\n"); lines > 6 {
		t.Errorf("the banner has %d lines, want at most 6:\n%s", lines, b.stderr)
	}
	b.engine.spec.workerLine(2, []byte("hello"))
	b.stderr.wait(t, `(?m)^\d.* worker 2 \| (hello)$`)
	c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	close(b.engine.idle)
	b.signals <- syscall.SIGTERM
	b.wantCode(exitClean)
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket file is still there: %v", err)
	}
}

func TestBareAppIsServe(t *testing.T) {
	for _, args := range [][]string{{"shop:app"}, {"serve", "shop:app"}, {"-w", "1", "shop:app"},
		{"-w", "1", "serve", "shop:app"}, {"shop:app", "--workers=1"}} {
		b := start(t, boots, append(args, "--listen=127.0.0.1:0")...)
		b.stderr.wait(t, listening)
		close(b.engine.idle)
		b.signals <- syscall.SIGINT
		b.wantCode(exitClean)
		if got := b.engine.spec.app; got != (app{name: "shop:app"}) {
			t.Errorf("%q serves %+v", args, got)
		}
	}
}

func TestDemoIsBuiltIn(t *testing.T) {
	b := start(t, boots, "demo", "--listen=127.0.0.1:0")
	b.stderr.wait(t, listening)
	close(b.engine.idle)
	b.signals <- syscall.SIGTERM
	b.wantCode(exitClean)
	if !b.engine.spec.app.builtIn {
		t.Error("demo serves something else")
	}
}

func TestSignals(t *testing.T) {
	for _, c := range []struct {
		name    string
		signals []os.Signal
		grace   string
		idle    bool // whether requests finish once the stop has begun
		want    int
	}{
		{"terminated", []os.Signal{syscall.SIGTERM}, "20s", true, exitClean},
		{"interrupted", []os.Signal{syscall.SIGINT}, "20s", true, exitClean},
		{"quit", []os.Signal{syscall.SIGQUIT}, "20s", false, exitForced},
		{"quit while stopping", []os.Signal{syscall.SIGTERM, syscall.SIGQUIT}, "20s", false,
			exitForced},
		{"broken log first", []os.Signal{syscall.SIGPIPE, syscall.SIGTERM}, "20s", true, exitClean},
		{"terminated again and again", []os.Signal{syscall.SIGTERM, syscall.SIGTERM,
			syscall.SIGTERM}, "20s", true, exitClean},
		{"deadline", []os.Signal{syscall.SIGTERM}, "10ms", false, exitRuntime},
		{"interrupted twice", []os.Signal{syscall.SIGINT, syscall.SIGINT}, "20s", false,
			exitForced},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := start(t, boots, "x", "--listen=127.0.0.1:0", "--graceful-timeout="+c.grace)
			b.stderr.wait(t, listening)
			for _, sig := range c.signals {
				b.signals <- sig
			}
			b.stderr.wait(t, "(stopping)")
			if c.idle {
				close(b.engine.idle)
			}
			b.wantCode(c.want)
		})
	}
}

// Signals that do not end the server: each is followed by what it wants in the log.
func TestSignalsWhileServing(t *testing.T) {
	b := start(t, boots, "x", "-w1", "--listen=127.0.0.1:0")
	b.stderr.wait(t, listening)
	close(b.engine.idle)
	for _, c := range []struct {
		signal syscall.Signal
		want   string
	}{
		{syscall.SIGHUP, "INFO  reloaded generation=2 workers=1 ()"},
		{syscall.SIGTTIN, "number of workers changes from=1 (to=2)"},
		{syscall.SIGTTOU, "number of workers changes from=2 (to=1)"},
		{syscall.SIGTTOU, "number of workers stays .*(at least 1)"},
		{syscall.SIGUSR1, "SIGUSR1: the log is (stderr)"},
		{syscall.SIGHUP, "INFO  reloaded generation=3 workers=1 ()"},
		{syscall.SIGQUIT, `(?m)all stacks follow\n    (goroutine) \d`},
		{syscall.SIGQUIT, `(?m)stacks of a worker.*\n    Thread of \d+:\n      (File) "shop.py"$`},
	} {
		b.signals <- c.signal
		b.stderr.wait(t, c.want)
	}
	b.wantCode(exitForced)
}

// A new version that cannot be imported is reported in one entry, and the old one serves on.
func TestReloadThatFails(t *testing.T) {
	b := start(t, func(w *fakeWorker) {
		if w.id == 1 {
			close(w.ready)
			return
		}
		w.die(supervise.Exit{ImportFailed: true, Reason: "Traceback:\nNameError: shop"})
	}, "x", "-w1", "--listen=127.0.0.1:0")
	b.stderr.wait(t, listening)
	b.signals <- syscall.SIGHUP
	b.stderr.wait(t, `ERROR reload failed: the old workers serve on .*NameError: shop"\n`+
		`    Traceback:\n    (NameError): shop\n`)
	close(b.engine.idle)
	b.signals <- syscall.SIGTERM
	b.wantCode(exitClean)
	if n := strings.Count(b.stderr.String(), "Traceback"); n != 1 {
		t.Errorf("tracebacks: got %d, want 1:\n%s", n, b.stderr)
	}
}

func TestSignalBeforeReady(t *testing.T) {
	booting := make(chan struct{}, 1)
	b := start(t, func(*fakeWorker) { booting <- struct{}{} }, "x", "-w1",
		"--listen=127.0.0.1:0")
	<-booting
	b.engine.spec.workerLine(1, []byte("Traceback\x1b"))
	b.stderr.wait(t, `^Traceback(\\x1b)\n`)
	b.signals <- syscall.SIGTERM
	b.wantCode(exitClean)
	if strings.Contains(b.stderr.String(), "listening") {
		t.Errorf("said to listen before it was ready:\n%s", b.stderr)
	}
}

func TestImportFailureShowsTheTraceback(t *testing.T) {
	b := start(t, func(w *fakeWorker) {
		w.die(supervise.Exit{ImportFailed: true,
			Reason: "  File \"shop.py\", line 1\nModuleNotFoundError: no flask\x1b[31m"})
	}, "shop:app", "--listen=127.0.0.1:0")
	b.wantCode(exitImport)
	for _, want := range []string{"cannot import app \"shop:app\" \\(in /", "line 1\nModule(N)",
		`flask\\x1b`} {
		b.stderr.wait(t, want)
	}
}

func TestCrashLoopAtStart(t *testing.T) {
	b := start(t, func(w *fakeWorker) { w.die(supervise.Exit{Signal: 11}) }, "shop:app",
		"--listen=127.0.0.1:0")
	b.wantCode(exitBoot)
	b.stderr.wait(t, "workers cannot start .* ended by signal 11")
}

func TestReactorThatEnds(t *testing.T) {
	b := start(t, boots, "shop:app", "--listen=127.0.0.1:0")
	b.stderr.wait(t, listening)
	b.engine.failed <- errors.New("epoll is gone")
	b.wantCode(exitRuntime)
	b.stderr.wait(t, "the reactor ended: epoll is gone")
}

func TestPortInUse(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	b := start(t, boots, "shop:app", "--listen", l.Addr().String())
	b.wantCode(exitListen)
	b.stderr.wait(t, "cannot listen on 127.0.0.1:[0-9]+: address already in use; ")
}

func TestCommandLinesThatAreRefused(t *testing.T) {
	for args, want := range map[string]string{
		"":                     "no APP given; write gophersnake MODULE",
		"serve":                "no APP given",
		"a b":                  `one APP can be served, not 2: \["a" "b"\]`,
		"serv a":               "did you mean serve",
		"demo a":               "demo takes no argument",
		"a --wrokers 2":        "unknown flag: --wrokers",
		"a --workers":          "needs an argument",
		"a -w x":               `--workers "x": give a whole number`,
		"a -C /does/not/exist": `--chdir "/does/not/exist": cannot go there: no such file`,
		"a -b 127.0.0.1:0 --python /does/not/exist": "is not an executable file",
		"a -b 127.0.0.1:0 --python /bin/true":       "gave no answer; is it a Python",
	} {
		b := start(t, boots, strings.Fields(args)...)
		b.wantCode(exitUsage)
		b.stderr.wait(t, "^gophersnake: .*"+want)
	}
}

func TestVersionAndHelp(t *testing.T) {
	for args, want := range map[string]string{
		"version":      "gophersnake " + version,
		"--version":    "gophersnake " + version,
		"--help":       "--graceful-timeout DUR",
		"serve --help": "--listen ADDR",
		"demo --help":  "--listen ADDR",
	} {
		var out bytes.Buffer
		code := execute(strings.Fields(args), process{stdout: &out, stderr: newConsole()})
		if code != exitClean || !strings.Contains(out.String(), want) {
			t.Errorf("%s: code %d and %q, want 0 and %q", args, code, &out, want)
		}
	}
}
