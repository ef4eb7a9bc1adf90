package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// waitMax bounds every wait of these tests; it is reached only when one fails.
const waitMax = 10 * time.Second

// fake is a server of two workers that remembers what it was told.
type fake struct {
	mu   sync.Mutex
	told []string
	fail error
	hold chan struct{} // when not nil, status waits for it

	state string // empty: serving
}

func (f *fake) tell(what string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.told = append(f.told, what)
	return f.fail
}

func (f *fake) Status(ctx context.Context) (Status, error) {
	if f.hold != nil {
		select {
		case <-f.hold:
		case <-ctx.Done():
		}
	}
	state := f.state
	if state == "" {
		state = StateServing
	}
	return Status{Version: "1.2", PID: 7, State: state, Generation: 3, Workers: 2,
		App: "shop:app", Dir: "/srv", Classes: [6]int64{2: 10, 5: 1}}, f.tell("status")
}

func (f *fake) Workers(context.Context) ([]Worker, error) {
	usage := Usage{RSS: 3 << 20, PSS: -1, CPU: -1}
	return []Worker{{ID: 1, PID: 70, State: "ready", Usage: usage}}, f.tell("workers")
}

func (f *fake) Threads(context.Context) (Threads, error) {
	return Threads{Workers: []WorkerThreads{{ID: 1, Threads: 4}}}, f.tell("threads")
}

func (f *fake) Stacks(_ context.Context, worker int) ([]Stack, error) {
	return []Stack{{ID: worker, Text: "Thread 1"}}, f.tell("stacks")
}

func (f *fake) Reload(context.Context) error { return f.tell("reload") }

func (f *fake) Scale(_ context.Context, n int) error { return f.tell("scale " + plural(n, "w")) }

func (f *fake) Recycle(_ context.Context, id int) error {
	return f.tell("recycle " + plural(id, "w"))
}

func (f *fake) Drain(ctx context.Context, exit bool) error {
	if f.hold != nil {
		select {
		case <-f.hold:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if exit {
		return f.tell("stop")
	}
	return f.tell("drain")
}

// serve starts a server on a socket of its own and returns the path.
func serve(t *testing.T, target Target) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	socket, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	answers(t, socket, target)
	return path
}

// answers lets target answer at a socket until the test ends.
func answers(t *testing.T, socket *Socket, target Target) {
	s := Serve(socket, target, slog.New(slog.NewTextHandler(io.Discard, nil)))
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestCommands(t *testing.T) {
	for _, c := range []struct {
		request   Request
		told, has string // what the target hears; what the text for people says
	}{
		{Request{Command: CommandStatus}, "status", "1.2, pid 7, serving"},
		{Request{Command: CommandWorkers}, "workers", "3.0 MiB"},
		{Request{Command: CommandThreads}, "threads", "worker 1 (pid 0, generation 0): 0 of 4"},
		{Request{Command: CommandStacks, Worker: 2}, "stacks", "worker 2 (pid 0)\nThread 1\n"},
		{Request{Command: CommandReload}, "reload,status", "ms: generation 3 serves"},
		{Request{Command: CommandScale, Count: 3}, "scale 3 ws", "scaled to 3 workers"},
		{Request{Command: CommandRecycle, Worker: 2}, "recycle 2 ws", "worker 2 recycled"},
		{Request{Command: CommandRecycle, All: true}, "recycle 0 ws", "all workers recycled"},
		{Request{Command: CommandDrain}, "drain", "drained in"},
	} {
		f := &fake{}
		result, err := Do(t.Context(), serve(t, f), c.request)
		if err != nil {
			t.Errorf("%+v: %v", c.request, err)
			continue
		}
		if told := strings.Join(f.told, ","); told != c.told {
			t.Errorf("%+v: the server was told %q, want %q", c.request, told, c.told)
		}
		var text bytes.Buffer
		if err := Print(&text, c.request, result, time.Now()); err != nil {
			t.Errorf("%+v: %v", c.request, err)
		}
		if !strings.Contains(text.String(), c.has) {
			t.Errorf("%+v: got %q, want %q in it", c.request, &text, c.has)
		}
	}
}

func TestServerSaysNo(t *testing.T) {
	f := &fake{fail: errors.New("Traceback\nImportError: no shop")}
	path := serve(t, f)
	for _, r := range []Request{{Command: CommandStatus}, {Command: CommandReload},
		{Command: CommandDrain}} {
		_, err := Do(t.Context(), path, r)
		var refused *RefusedError
		if !errors.As(err, &refused) || refused.Reason != f.fail.Error() {
			t.Errorf("%+v: got %v, want the target's reason", r, err)
		}
	}
}

// The server checks what it is told: the client of another version, or a script, may not.
func TestRequestsThatAreRefused(t *testing.T) {
	f := &fake{}
	path := serve(t, f)
	for text, want := range map[string]string{
		`{"command":"dance"}` + "\n":                          `there is no command \"dance\"`,
		`{"command":"scale"}` + "\n":                          "at least 1",
		`{"command":"recycle"}` + "\n":                        "one worker, or all",
		`{"command":"recycle","all":true,"worker":1}` + "\n":  "one worker, or all",
		`{"command":"status","force":true}` + "\n":            "unknown field",
		"GET / HTTP/1.1\r\n\r\n":                              "cannot read the request",
		`{"command":"` + strings.Repeat("x", RequestBytesMax): "the request is over 4096 bytes",
		`{"command":"status"}`:                                "no request",
	} {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, text) // a refusal may come before the last byte
		_ = conn.(*net.UnixConn).CloseWrite()
		answer, err := io.ReadAll(conn)
		var a Answer
		if json.Unmarshal(answer, &a) != nil || !strings.Contains(string(answer), want) ||
			a.Result != nil {
			t.Errorf("%.60q: got %q and %v, want %q in it", text, answer, err, want)
		}
		_ = conn.Close()
	}
	if f.told != nil {
		t.Errorf("the server was told %q, want nothing", f.told)
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	f := &fake{hold: make(chan struct{})}
	path := serve(t, f)
	results := make(chan error)
	for range ConnectionsMax + 1 {
		go func() {
			_, err := Do(t.Context(), path, Request{Command: CommandStatus})
			results <- err
		}()
	}
	// All but one are held, so the first to end is the one too many.
	var refused *RefusedError
	if err := <-results; !errors.As(err, &refused) ||
		!strings.Contains(refused.Reason, "running already") {
		t.Errorf("got %v, want a refusal", err)
	}
	close(f.hold)
	for range ConnectionsMax {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}

// Commands whose clients did not wait for them would keep everybody out, stop too. A client that
// has closed its writing half only still waits.
func TestClientsThatLeaveGiveUpTheirPlace(t *testing.T) {
	f := &fake{hold: make(chan struct{})}
	path := serve(t, f)
	ask := func() *net.UnixConn {
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
		if err == nil {
			_, err = io.WriteString(conn, `{"command":"drain"}`+"\n")
		}
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	patient := ask()
	defer patient.Close()
	if err := patient.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	var hasty []*net.UnixConn
	for range ConnectionsMax - 1 {
		hasty = append(hasty, ask())
	}
	if _, err := Do(t.Context(), path, Request{Command: CommandWorkers}); err == nil {
		t.Error("there is a place beside those that are taken")
	}
	for _, conn := range hasty {
		conn.Close()
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(waitMax); ; <-tick.C {
		_, err := Do(t.Context(), path, Request{Command: CommandWorkers})
		if err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("no place came free: %v", err)
		}
	}
	close(f.hold)
	answer, err := io.ReadAll(patient)
	if err != nil || !strings.Contains(string(answer), "result") {
		t.Errorf("who still waits got %q and %v, want a result", answer, err)
	}
}

// Whoever stops the server hears how it went before the socket goes.
func TestCloseWaitsForAnswers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	socket, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{hold: make(chan struct{})}
	s := Serve(socket, f, slog.New(slog.NewTextHandler(io.Discard, nil)))
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, `{"command":"status"}`+"\n"); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(waitMax); len(s.places) == 0; runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatal("the connection was not accepted")
		}
	}
	closed := make(chan struct{})
	go func() { _ = s.Close(); close(closed) }()
	close(f.hold)
	if answer, err := io.ReadAll(conn); err != nil || !bytes.Contains(answer, []byte("1.2")) {
		t.Errorf("got %q and %v, want the status", answer, err)
	}
	<-closed
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

// A thread of another user connects, whatever the mode of the socket has become.
func TestOtherUsersAreRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can become somebody else")
	}
	path := serve(t, &fake{})
	for dir := path; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	answers := make(chan string)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		const nobody = 65534
		_, _, errno := syscall.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody)
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err = errors.Join(err, unix.Connect(fd, &unix.SockaddrUnix{Name: path})); err != nil ||
			errno != 0 {
			answers <- "cannot connect: " + errno.Error() + err.Error()
			return
		}
		conn := os.NewFile(uintptr(fd), "conn")
		defer conn.Close()
		_, _ = conn.WriteString(`{"command":"status"}` + "\n")
		text, _ := io.ReadAll(conn)
		answers <- string(text)
	}()
	if got := <-answers; !strings.Contains(got, "only the server's user and root") {
		t.Errorf("got %q, want a refusal", got)
	}
	for uid, want := range map[uint32]bool{0: true, uint32(os.Geteuid()): true, 65534: false} {
		if got := trusted(uid); got != want {
			t.Errorf("user %d is trusted: %v, want %v", uid, got, want)
		}
	}
}

func TestNobodyThere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	_, err := Do(t.Context(), path, Request{Command: CommandStatus})
	var none *NoServerError
	if !errors.As(err, &none) || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("got %v, want no server", err)
	}
	if got := unreachable("/s", unix.EACCES); !strings.Contains(got, "only the server's user") {
		t.Errorf("got %q, want who may ask", got)
	}
}

// Of an old server and its successor, the one in charge is meant.
func TestOneOfTwoIsMeant(t *testing.T) {
	states := map[string]string{}
	paths := func(all ...string) (paths []string) {
		for _, state := range all {
			path := serve(t, &fake{state: state})
			states[path] = state
			paths = append(paths, path)
		}
		return paths
	}
	for _, c := range []struct {
		states []string
		want   string
	}{
		{[]string{StateServing, StateStarting}, StateServing},
		{[]string{StateStopping, StateServing}, StateServing},
		{[]string{StateStopping, StateDraining}, StateDraining},
		{[]string{StateServing, StateServing}, ""},
		{[]string{StateServing, StateDraining}, ""},
		{[]string{StateStarting, StateStopping}, ""},
	} {
		found, only := incumbent(paths(c.states...))
		if states[found] != c.want && only || only != (c.want != "") {
			t.Errorf("%q: got %q, %v, want %q", c.states, states[found], only, c.want)
		}
	}
}
