package systemd

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const waitMax = 20 * time.Second

// role is the variable that makes this test binary a service with sockets.
const role = "SYSTEMD_TEST_ROLE"

func TestMain(m *testing.M) {
	if os.Getenv(role) != "" {
		os.Exit(service())
	}
	os.Exit(m.Run())
}

// service prints what it finds in its environment.
func service() int {
	pid := os.Getpid()
	if os.Getenv(role) == "other" {
		pid++
	}
	files, err := Sockets(func(name string) string {
		if name == "LISTEN_PID" { // a real manager forks and fills it in
			return strconv.Itoa(os.Getpid())
		}
		return os.Getenv(name)
	}, pid)
	for _, f := range files {
		flags, _ := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0)
		l, err := net.FileListener(f)
		if err != nil {
			fmt.Println(err)
			return 1
		}
		fmt.Println(f.Name(), l.Addr().Network(), flags&unix.FD_CLOEXEC)
	}
	if err != nil {
		fmt.Println(err)
	}
	return 0
}

func env(pairs ...string) func(string) string {
	return func(name string) string {
		for _, pair := range pairs {
			if value, ok := strings.CutPrefix(pair, name+"="); ok {
				return value
			}
		}
		return ""
	}
}

func TestSockets(t *testing.T) {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	local, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	tcpFile, _ := tcp.(*net.TCPListener).File()
	defer tcpFile.Close()
	localFile, _ := local.(*net.UnixListener).File()
	defer localFile.Close()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ env, want string }{
		{"LISTEN_FDS=2 LISTEN_FDNAMES=http:local", "http tcp 1 local unix 1"},
		{"LISTEN_FDS=2 LISTEN_FDNAMES=http", "http tcp 1 unknown unix 1"},
		{"LISTEN_FDS=1", "unknown tcp 1"},
		{"LISTEN_FDS=0", ""},
		{"", ""},
		{"LISTEN_FDS=2 " + role + "=other", ""},
		{"LISTEN_FDS=60", "systemd: LISTEN_FDS=60, but descriptor \\d+: bad file descriptor"},
		{"LISTEN_FDS=65", `systemd: LISTEN_FDS "65": not a number from 0 to 64`},
		{"LISTEN_FDS=x", `systemd: LISTEN_FDS "x": not a number from 0 to 64`},
	} {
		cmd := exec.Command(path)
		cmd.Env = append([]string{role + "=service"}, strings.Fields(c.env)...)
		cmd.ExtraFiles = []*os.File{tcpFile, localFile}
		out, err := cmd.CombinedOutput()
		got := strings.Join(strings.Fields(string(out)), " ")
		if !regexp.MustCompile("^"+c.want+"$").MatchString(got) || err != nil {
			t.Errorf("%s: got %q (%v), want %q", c.env, got, err, c.want)
		}
	}
}

// manager is the socket of a service manager.
func manager(t *testing.T, name string) *net.UnixConn {
	t.Helper()
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetReadDeadline(time.Now().Add(waitMax)); err != nil {
		t.Fatal(err)
	}
	return c
}

func hear(t *testing.T, c *net.UnixConn) string {
	t.Helper()
	text := make([]byte, 4096)
	n, err := c.Read(text)
	if err != nil {
		t.Fatal(err)
	}
	return string(text[:n])
}

func TestMessages(t *testing.T) {
	for _, name := range []string{filepath.Join(t.TempDir(), "notify"),
		fmt.Sprintf("@gophersnake-test-%d", os.Getpid())} {
		m := manager(t, name)
		n, err := Connect(env("NOTIFY_SOCKET="+name), 1)
		if err != nil {
			t.Fatal(err)
		}
		for want, say := range map[string]func() error{
			"READY=1\nSTATUS=on :80 MAINPID=1": func() error { return n.Ready("on :80\nMAINPID=1") },
			"STATUS=busy":                      func() error { return n.Status("busy") },
			"STATUS=" + strings.Repeat("a", statusBytesMax-1): func() error {
				return n.Status(strings.Repeat("a", statusBytesMax-1) + "é")
			},
			"STOPPING=1\nSTATUS=stopping": n.Stopping,
			"MAINPID=7":                   func() error { return n.MainPID(7) },
			"WATCHDOG=1":                  n.WatchdogAlive,
		} {
			if err := say(); err != nil {
				t.Fatal(err)
			}
			if got := hear(t, m); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
	}
}

// The manager compares the time with its own of the same clock.
func TestReloadingTellsTheTime(t *testing.T) {
	name := filepath.Join(t.TempDir(), "notify")
	m := manager(t, name)
	n, err := Connect(env("NOTIFY_SOCKET="+name), 1)
	if err != nil {
		t.Fatal(err)
	}
	before := monotonic(t)
	if err := n.Reloading(); err != nil {
		t.Fatal(err)
	}
	said := regexp.MustCompile(`^RELOADING=1\nMONOTONIC_USEC=(\d+)$`).FindStringSubmatch(hear(t, m))
	if said == nil {
		t.Fatal("not the message that is wanted")
	}
	at, _ := strconv.ParseInt(said[1], 10, 64)
	if after := monotonic(t); at < before || at > after {
		t.Errorf("it says %d µs, want %d to %d", at, before, after)
	}
}

func monotonic(t *testing.T) int64 {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		t.Fatal(err)
	}
	return now.Nano() / 1000
}

func TestWithoutManager(t *testing.T) {
	n, err := Connect(env(), 1)
	if n != nil || err != nil {
		t.Fatalf("got %v, %v, want neither", n, err)
	}
	for _, say := range []func() error{n.Stopping, n.Reloading, n.WatchdogAlive} {
		if err := say(); err != nil {
			t.Error(err)
		}
	}
}

func TestWatchdog(t *testing.T) {
	name := filepath.Join(t.TempDir(), "notify")
	manager(t, name)
	for _, c := range []struct {
		env  string
		want time.Duration
	}{
		{"", 0},
		{"WATCHDOG_USEC=30000000", 30 * time.Second},
		{"WATCHDOG_USEC=30000000 WATCHDOG_PID=5", 30 * time.Second},
		{"WATCHDOG_USEC=30000000 WATCHDOG_PID=6", 0},
	} {
		pairs := append(strings.Fields(c.env), "NOTIFY_SOCKET="+name)
		n, err := Connect(env(pairs...), 5)
		if err != nil || n.Watchdog != c.want {
			t.Errorf("%s: got %v (%v), want %v", c.env, n.Watchdog, err, c.want)
		}
	}
}

func TestVariablesThatMakeNoSense(t *testing.T) {
	name := filepath.Join(t.TempDir(), "notify")
	manager(t, name)
	for pairs, want := range map[string]string{
		"NOTIFY_SOCKET=vsock:2:1":                                           "not a path and no @name",
		"NOTIFY_SOCKET=/does/not/exist":                                     "no such file",
		"NOTIFY_SOCKET=" + name + " WATCHDOG_USEC=x":                        `WATCHDOG_USEC "x"`,
		"NOTIFY_SOCKET=" + name + " WATCHDOG_USEC=0":                        `WATCHDOG_USEC "0"`,
		"NOTIFY_SOCKET=" + name + " WATCHDOG_USEC=" + "9999999999999999999": "WATCHDOG_USEC",
	} {
		n, err := Connect(env(strings.Fields(pairs)...), 1)
		if n != nil || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, %v, want %q", pairs, n, err, want)
		}
	}
}
