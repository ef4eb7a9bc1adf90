package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gophersnake/loop"
	"gophersnake/server/internal/handover"
	"gophersnake/server/internal/systemd"
)

func TestTenures(t *testing.T) {
	all := []tenure{following, inCharge, replacing, replaced}
	legal := "following>in charge in charge>replacing replacing>in charge replacing>replaced"
	for _, from := range all {
		for _, to := range all {
			want := strings.Contains(legal, from.String()+">"+to.String())
			func() {
				defer func() {
					if p := recover(); (p == nil) != want {
						t.Errorf("%v to %v: panic %v, want legal %v", from, to, p, want)
					}
				}()
				(&upgrade{tenure: from}).move(to)
			}()
		}
	}
}

// successor is an inheritance whose next server is a shell script.
func successor(t *testing.T, script string, args ...string) *inheritance {
	return &inheritance{env: os.Environ(), origin: handover.Origin{Path: "/bin/sh",
		Args: append([]string{"sh", "-c", script}, args...), Dir: t.TempDir()}}
}

func TestUpgradeHandsOver(t *testing.T) {
	dir := t.TempDir()
	path, said := filepath.Join(dir, "s"), filepath.Join(dir, "said")
	script := `printf r >&3; head -c 1 <&3 >"$0"; printf k >&3`
	b := startIn(t, successor(t, script, said), boots, "x", "-w1", "-b", "unix:"+path)
	b.stderr.wait(t, listening)
	close(b.engine.idle)
	b.signals <- syscall.SIGUSR2
	b.wantCode(exitClean)
	b.stderr.wait(t, "(the new server is in charge; this one finishes)")
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the socket's file went with the old server: %v", err)
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(waitMax); ; <-tick.C {
		text, err := os.ReadFile(said)
		if string(text) == "m" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the new server was told %q (%v), want m", text, err)
		}
	}
}

func TestUpgradeThatFailsCanBeTriedAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	b := startIn(t, successor(t, "exit 3"), boots, "x", "-w1", "-b", "unix:"+path)
	b.stderr.wait(t, listening)
	for range 2 {
		b.signals <- syscall.SIGUSR2
	}
	b.stderr.wait(t, `(?s)(goes on reason=.*exit status 3|on its way).*(goes on|on its way)`)
	close(b.engine.idle)
	b.signals <- syscall.SIGTERM
	b.wantCode(exitClean)
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket's file is still there: %v", err)
	}
}

// The old server leaves only when the new one has answered: one that dies at the last moment
// changes nothing.
func TestUpgradeThatFailsAtTheLastMoment(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	b := startIn(t, successor(t, `printf r >&3`), boots, "x", "-w1", "-b", "unix:"+path)
	b.stderr.wait(t, listening)
	b.signals <- syscall.SIGUSR2
	b.stderr.wait(t, "(upgrade failed; this server goes on reason=.*does not take over)")
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	close(b.engine.idle)
	b.signals <- syscall.SIGTERM
	b.wantCode(exitClean)
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket's file is still there: %v", err)
	}
}

func TestUpgradesThatAreRefused(t *testing.T) {
	booting := make(chan struct{}, 1)
	b := startIn(t, successor(t, "exit 3"), func(*fakeWorker) { booting <- struct{}{} }, "x",
		"-w1", "-b", "127.0.0.1:0")
	<-booting
	b.signals <- syscall.SIGUSR2
	b.stderr.wait(t, "(no upgrade: this server is not in charge yet)")
	b.signals <- syscall.SIGTERM
	b.wantCode(exitClean)

	in := successor(t, "exit 3")
	in.unknown = errors.New("no name")
	b = startIn(t, in, boots, "x", "-w1", "-b", "127.0.0.1:0")
	b.stderr.wait(t, listening)
	b.signals <- syscall.SIGUSR2
	b.stderr.wait(t, "(no upgrade: it is not known how this server was started)")
	close(b.engine.idle)
	b.signals <- syscall.SIGTERM
	b.wantCode(exitClean)
}

func TestStopGivesUpTheUpgrade(t *testing.T) {
	started := filepath.Join(t.TempDir(), "started")
	if err := syscall.Mkfifo(started, 0o600); err != nil {
		t.Fatal(err)
	}
	b := startIn(t, successor(t, `echo $$ >"$0"; exec sleep 1000`, started), boots, "x", "-w1",
		"-b", "127.0.0.1:0")
	b.stderr.wait(t, listening)
	b.signals <- syscall.SIGUSR2
	text, err := os.ReadFile(started) // waits for the script
	if err != nil {
		t.Fatal(err)
	}
	close(b.engine.idle)
	b.signals <- syscall.SIGTERM
	b.wantCode(exitClean)
	if _, err := os.Stat("/proc/" + strings.TrimSpace(string(text))); err == nil {
		t.Errorf("the new server %s outlives the old one", text)
	}
}

// A drained server hands nothing over, also when the new one has begun to start.
func TestDrainGivesUpTheUpgrade(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ctl")
	b := startIn(t, successor(t, "exec sleep 1000"), boots, "x", "-w1", "-b", "127.0.0.1:0",
		"--control-socket", path)
	b.stderr.wait(t, listening)
	b.signals <- syscall.SIGUSR2
	b.stderr.wait(t, "(upgrade: starting)")
	if code, out, errs := ctl(path, "ctl", "drain"); code != 0 {
		t.Errorf("drain: code %d and %q, want 0", code, out+errs)
	}
	b.stderr.wait(t, "(upgrade failed; this server goes on reason=.*drained)")
	b.signals <- syscall.SIGUSR2
	b.stderr.wait(t, "(no upgrade reason=.*drained)")
	close(b.engine.idle)
	b.signals <- syscall.SIGTERM
	b.wantCode(exitClean)
}

// The number of workers can change while a new server starts; it is complete with those wanted.
func TestNewServerThatIsScaledTakesOver(t *testing.T) {
	const how = unix.SOCK_STREAM | unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK
	link, err := unix.Socketpair(unix.AF_UNIX, how, 0)
	if err != nil {
		t.Fatal(err)
	}
	old := os.NewFile(uintptr(link[0]), "old")
	defer old.Close()
	previous, err := handover.Take(fmt.Sprintf(`{"link":%d,"pid":7}`, link[1]))
	if err != nil {
		t.Fatal(err)
	}
	b := startIn(t, &inheritance{previous: previous}, func(w *fakeWorker) {
		if w.id == 1 { // the second one never becomes ready
			boots(w)
		}
	}, "x", "-w2", "-b", "127.0.0.1:0")
	b.stderr.wait(t, "(app x, ready)")
	b.signals <- syscall.SIGTTOU
	_ = old.SetReadDeadline(time.Now().Add(waitMax))
	said := make([]byte, 1)
	if _, err := old.Read(said); err != nil || said[0] != 'r' {
		t.Errorf("the new server says %q (%v), want that it is ready", said, err)
	}
	close(b.engine.idle)
	b.signals <- syscall.SIGTERM
	b.wantCode(exitClean)
}

func TestStatusLine(t *testing.T) {
	before := loop.Stats{Answers: [6]uint64{2: 100, 5: 3}}
	now := loop.Stats{Answers: [6]uint64{2: 2090, 4: 10, 5: 3}, InFlight: 4, Waiting: 2,
		Workers: make([]loop.WorkerStats, 3)}
	want := "200 requests/s, 4 running, 2 waiting, 3 workers ready"
	if got := busyness(before, now, 10*time.Second); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// managed is an inheritance with a service manager; hear returns its next message, "" for none.
// A wait of 0 takes what is there: a deadline may be over before anything has looked.
func managed(t *testing.T, watchdog string) (_ *inheritance, hear func(time.Duration) string) {
	name := filepath.Join(t.TempDir(), "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { manager.Close() })
	variables := map[string]string{"NOTIFY_SOCKET": name, "WATCHDOG_USEC": watchdog}
	in := &inheritance{}
	in.manager, err = systemd.Connect(func(name string) string { return variables[name] }, 1)
	if err != nil {
		t.Fatal(err)
	}
	return in, func(wait time.Duration) string {
		text := make([]byte, 4096)
		if wait == 0 {
			return string(text[:receiveNow(t, manager, text)])
		}
		_ = manager.SetReadDeadline(time.Now().Add(wait))
		n, _ := manager.Read(text)
		return string(text[:n])
	}
}

// receiveNow reads the next message without waiting; 0 when there is none.
func receiveNow(t *testing.T, c *net.UnixConn, text []byte) (n int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	failed := raw.Control(func(fd uintptr) {
		n, _, err = unix.Recvfrom(int(fd), text, unix.MSG_DONTWAIT)
	})
	if err == unix.EAGAIN {
		return 0
	}
	if err = errors.Join(err, failed); err != nil {
		t.Fatal(err)
	}
	return n
}

// A reload that a stop gives up does not make the service ready again.
func TestStopIsTheLastWord(t *testing.T) {
	in, hear := managed(t, "")
	importing := make(chan struct{}, 1)
	b := startIn(t, in, func(w *fakeWorker) {
		if w.id == 1 {
			boots(w)
			return
		}
		importing <- struct{}{}
	}, "x", "-w1", "-b", "127.0.0.1:0")
	b.stderr.wait(t, listening)
	b.signals <- syscall.SIGHUP
	<-importing
	b.signals <- syscall.SIGTERM
	b.stderr.wait(t, "(no reload)")
	for _, want := range []string{"READY=1", "RELOADING=1", "STOPPING=1"} {
		if got := hear(waitMax); !strings.HasPrefix(got, want) {
			t.Errorf("the manager hears %q, want %s", got, want)
		}
	}
	if got := hear(20 * time.Millisecond); got != "" {
		t.Errorf("the manager hears %q after the stop", got)
	}
	close(b.engine.idle)
	b.wantCode(exitClean)
}

// The status line follows ctl scale and the signals that do the same.
func TestStatusTellsOfAllWorkers(t *testing.T) {
	in, hear := managed(t, "")
	b := startIn(t, in, boots, "x", "-w1", "-b", "127.0.0.1:0")
	b.stderr.wait(t, listening)
	b.signals <- syscall.SIGTTIN
	b.signals <- syscall.SIGHUP
	want := []string{" with 1 worker × 4", "RELOADING=1", " with 2 workers × 4"}
	for _, want := range want {
		if got := hear(waitMax); !strings.Contains(got, want) {
			t.Errorf("the manager hears %q, want %q", got, want)
		}
	}
	close(b.engine.idle)
	b.signals <- syscall.SIGTERM
	b.wantCode(exitClean)
}

// A loop that is stuck must stop the watchdog, or nobody restarts the service.
func TestStuckLoopStarvesTheWatchdog(t *testing.T) {
	in, hear := managed(t, "20000")
	b := startIn(t, in, boots, "x", "-w1", "-b", "127.0.0.1:0")
	if got := hear(waitMax); !strings.HasPrefix(got, "READY=1\nSTATUS=serving x on http://") {
		t.Errorf("the first message is %q, want READY", got)
	}
	for range 3 {
		if got := hear(waitMax); got != "WATCHDOG=1" {
			t.Errorf("got %q, want WATCHDOG=1", got)
		}
	}
	b.engine.stuck.Store(true)
	b.stderr.wait(t, `(the watchdog is not fed)`)
	for hear(0) != "" { // sent before
	}
	b.stderr.wait(t, `(?s)(not fed.*not fed.*not fed)`)
	if got := hear(0); got != "" {
		t.Errorf("a loop is stuck, and the manager hears %q", got)
	}
	close(b.engine.idle)
	b.signals <- syscall.SIGTERM
	b.wantCode(exitClean)
	if got := hear(waitMax); got != "STOPPING=1\nSTATUS=stopping" {
		t.Errorf("got %q, want STOPPING", got)
	}
}
