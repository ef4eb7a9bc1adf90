package handover

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const waitMax = 20 * time.Second

// role is the variable that makes this test binary play a new server.
const role = "HANDOVER_TEST_ROLE"

func TestMain(m *testing.M) {
	play, ok := map[string]func() int{
		"serve": serve, "exit": func() int { return 4 }, "hang": hang, "mumble": mumble,
		"faint": faint,
	}[os.Getenv(role)]
	if ok {
		os.Exit(play())
	}
	os.Exit(m.Run())
}

// serve takes over and then tells each client what it knows, until it is confirmed and the last
// one has gone.
func serve() int {
	p, err := Take(os.Getenv(Variable))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	s := p.Sockets[0]
	l, err := net.FileListener(s.File)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	flags, _ := unix.FcntlInt(s.File.Fd(), unix.F_GETFD, 0)
	if err := p.Ready(); err != nil {
		return 1
	}
	p.WaitConfirmed()
	c, err := l.Accept()
	if err != nil {
		return 1
	}
	dir, _ := os.Getwd()
	fmt.Fprintf(c, "%d %s %s %v %v %s %s\n", p.PID, s.Name, p.Sockets[1].Name, s.Owned,
		flags&unix.FD_CLOEXEC != 0, filepath.Base(dir), strings.Join(os.Args, ","))
	return 0
}

func hang() int {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	<-signals
	return 0
}

func mumble() int {
	p, err := Take(os.Getenv(Variable))
	if err != nil {
		return 1
	}
	_, _ = p.link.Write([]byte("x"))
	return hang()
}

// faint is ready, and gone.
func faint() int {
	p, err := Take(os.Getenv(Variable))
	if err != nil {
		return 1
	}
	_ = p.Ready()
	return 0
}

// startRole starts this test binary as a new server.
func startRole(t *testing.T, name string, offers ...Offer) (*Next, error) {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o := Origin{Path: path, Args: []string{"gs", "app"}, Dir: t.TempDir()}
	env := append(Without(os.Environ(), role), role+"="+name)
	return Start(o, env, offers)
}

func listener(t *testing.T) *net.TCPListener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.(*net.TCPListener)
}

func TestNewServerTakesOver(t *testing.T) {
	l := listener(t)
	next, err := startRole(t, "serve", Offer{l, "http", true},
		Offer{listener(t), "control", false})
	if err != nil {
		t.Fatal(err)
	}
	if err := next.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	// It waits in the kernel until somebody accepts: nobody here will.
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := errors.Join(next.Confirm(), l.Close()); err != nil {
		t.Fatal(err)
	}
	next.Release()
	_ = c.SetDeadline(time.Now().Add(waitMax))
	got, err := bufio.NewReader(c).ReadString('\n')
	want := fmt.Sprintf("%d http control true true 001 gs,app\n", os.Getpid())
	if got != want || err != nil {
		t.Errorf("got %q (%v), want %q", got, err, want)
	}
	<-next.done
}

// A listener that became blocking would hang the old server's accept goroutines.
func TestHandedSocketStaysNonblocking(t *testing.T) {
	l := listener(t)
	next, err := startRole(t, "exit", Offer{Socket: l})
	if err != nil {
		t.Fatal(err)
	}
	<-next.done
	next.Release()
	raw, err := l.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) {
		if flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0); flags&unix.O_NONBLOCK == 0 {
			t.Errorf("flags %#x (%v), want O_NONBLOCK", flags, err)
		}
	})
}

func TestFailuresOfANewServer(t *testing.T) {
	var late = errors.New("not ready in time")
	for name, want := range map[string]string{
		"exit":   "the new server ended before it was ready: exit status 4",
		"mumble": `does not know how to take over (it said "x")`,
		"hang":   late.Error(),
	} {
		t.Run(name, func(t *testing.T) {
			next, err := startRole(t, name)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			if name == "hang" {
				cancel(late)
			}
			if err := next.Ready(ctx); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %q", err, want)
			}
			next.Abandon()
			if err := syscall.Kill(next.PID(), 0); !errors.Is(err, syscall.ESRCH) {
				t.Errorf("the abandoned process is there: %v", err)
			}
		})
	}
}

func TestNewServerThatDiesWhenItIsReady(t *testing.T) {
	next, err := startRole(t, "faint")
	if err != nil {
		t.Fatal(err)
	}
	if err := next.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := next.Confirm(); err == nil || !strings.Contains(err.Error(), "not take over") {
		t.Errorf("got %v, want that it does not take over", err)
	}
	next.Abandon()
}

func TestGarbageDoesNotStart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gs")
	if err := os.WriteFile(path, []byte("\x00garbage"), 0o755); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]error{path: syscall.ENOEXEC, path + "x": syscall.ENOENT} {
		if _, err := Start(Origin{Path: path, Args: []string{"gs"}, Dir: "/"}, nil, nil); !errors.
			Is(err, want) {
			t.Errorf("%s: got %v, want %v", path, err, want)
		}
	}
}

// An old server that dies half-way leaves the new one in charge.
func TestVanishedPredecessorConfirms(t *testing.T) {
	ours, theirs, err := pair()
	if err != nil {
		t.Fatal(err)
	}
	// Take owns what it is told of.
	fd, err := unix.Dup(int(theirs.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	text, _ := json.Marshal(message{Link: fd, PID: 7})
	p, err := Take(string(text))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Ready(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(io.LimitReader(ours, 1)); string(got) != "r" || err != nil {
		t.Fatalf("it said %q (%v), want r", got, err)
	}
	confirmed := make(chan struct{})
	go func() { p.WaitConfirmed(); close(confirmed) }()
	select {
	case <-confirmed:
		t.Fatal("confirmed by nobody")
	default:
	}
	ours.Close()
	select {
	case <-confirmed:
	case <-time.After(waitMax):
		t.Fatal("it waits for a server that is gone")
	}
}

func TestEnvironmentThatMakesNoSense(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, value := range []string{"x", "{}", `{"link":-1}`, `{"link":99999}`,
		fmt.Sprintf(`{"link":%d}`, null.Fd())} {
		if p, err := Take(value); p != nil || err == nil {
			t.Errorf("Take(%s) = %v, %v, want an error", value, p, err)
		}
	}
	if p, err := Take(""); p != nil || err != nil {
		t.Errorf("Take of nothing = %v, %v, want nothing", p, err)
	}
}

func TestOrigin(t *testing.T) {
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	link := filepath.Join(bin, "gs")
	if err := os.Symlink("/bin/true", link); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin)
	near, err := filepath.Rel(dir, link)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"gs": link, link: link, near: link,
		"no such command": self} {
		o, err := FindOrigin([]string{name, "app"})
		if err != nil || o.Path != want || o.Dir != dir || !slices.Equal(o.Args,
			[]string{name, "app"}) {
			t.Errorf("%s: got %+v (%v), want path %s in %s", name, o, err, want, dir)
		}
	}
}

func TestWithout(t *testing.T) {
	got := Without([]string{"A=1", "AB=2", "B=3", "C"}, "A", "B")
	if want := []string{"AB=2", "C"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
