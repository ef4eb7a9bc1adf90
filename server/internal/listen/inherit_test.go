package listen

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// inherited is a second listener on l's socket, as another process would make it.
func inherited(t *testing.T, l net.Listener) net.Listener {
	t.Helper()
	raw, err := l.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var copied int
	if err := raw.Control(func(fd uintptr) {
		copied, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
	}); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	second, err := FromFile(os.NewFile(uintptr(copied), "http"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { second.Close() })
	return second
}

func TestSecondListenerOutlivesTheFirst(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	for _, l := range []net.Listener{open(t, "tcp4", "127.0.0.1:0"), open(t, "unix", path)} {
		second := inherited(t, l)
		if URL(second) != URL(l) {
			t.Errorf("URL is %q, want %q", URL(second), URL(l))
		}
		RemoveOnClose(l, false)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		answers(t, second)
		c, err := second.Accept()
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the socket's file is gone: %v", err)
	}
}

// A blocking listener would hold its goroutine in the kernel, and Close would not end Accept.
func TestListenerStaysNonblocking(t *testing.T) {
	l := open(t, "tcp4", "127.0.0.1:0")
	second := inherited(t, l)
	for _, l := range []net.Listener{l, second} {
		raw, err := l.(*net.TCPListener).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var flags int
		if err := raw.Control(func(fd uintptr) {
			flags, err = unix.FcntlInt(fd, unix.F_GETFL, 0)
		}); err != nil {
			t.Fatal(err)
		}
		if err != nil || flags&unix.O_NONBLOCK == 0 {
			t.Errorf("flags %#x (%v), want O_NONBLOCK", flags, err)
		}
	}
}

func TestOwnerRemovesTheSocketFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l := open(t, "unix", path)
	second := inherited(t, l)
	RemoveOnClose(l, false)
	l.Close()
	RemoveOnClose(second, true)
	second.Close()
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket's file is still there: %v", err)
	}
}

func TestDescriptorsThatDoNotListen(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[1])
	datagram, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	packets, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	name := &unix.SockaddrUnix{Name: filepath.Join(t.TempDir(), "s")}
	if err := errors.Join(unix.Bind(packets, name), unix.Listen(packets, 1)); err != nil {
		t.Fatal(err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		file *os.File
		want string
	}{
		{os.NewFile(uintptr(pair[0]), "web"), "cannot listen on the inherited socket web: " +
			"it is no listening socket; a socket unit needs Accept=no"},
		{os.NewFile(uintptr(datagram), "web"), "it is no listening socket"},
		{os.NewFile(uintptr(packets), "web"), "it is no TCP and no Unix stream socket"},
		{null, "socket operation on non-socket"},
	} {
		_, err := FromFile(c.file)
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
}
