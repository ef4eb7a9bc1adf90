package listen

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

func open(t *testing.T, network, address string) net.Listener {
	t.Helper()
	l, err := Open(t.Context(), network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// answers says whether somebody accepts there.
func answers(t *testing.T, l net.Listener) {
	t.Helper()
	c, err := net.Dial(l.Addr().Network(), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func TestTCPListenerSaysItsRealPort(t *testing.T) {
	l := open(t, "tcp4", "127.0.0.1:0")
	answers(t, l)
	if want := regexp.MustCompile(`^http://127\.0\.0\.1:[1-9][0-9]*$`); !want.MatchString(URL(l)) {
		t.Errorf("URL is %q, want %v", URL(l), want)
	}
}

func TestEveryFamilyOnOnePort(t *testing.T) {
	l := open(t, "tcp", ":0")
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp4", "127.0.0.1:"+port)
	if err != nil {
		t.Fatalf("a listener on %v does not take IPv4: %v", l.Addr(), err)
	}
	c.Close()
}

func TestPortInUse(t *testing.T) {
	l := open(t, "tcp4", "127.0.0.1:0")
	_, err := Open(t.Context(), "tcp4", l.Addr().String())
	if !errors.Is(err, syscall.EADDRINUSE) {
		t.Fatalf("got %v, want address in use", err)
	}
	want := "cannot listen on " + l.Addr().String() + ": address already in use; "
	if !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got %q, want it to begin with %q", err, want)
	}
}

func TestHintsNameTheWayOut(t *testing.T) {
	for number, want := range map[syscall.Errno]string{
		syscall.EACCES:        "cannot listen on 127.0.0.1:80: permission denied; ports below",
		syscall.EADDRNOTAVAIL: "cannot assign requested address; no interface",
	} {
		inner := &net.OpError{Op: "listen", Err: os.NewSyscallError("bind", number)}
		err := explain("127.0.0.1:80", inner)
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %q, want %q in it", err, want)
		}
	}
}

func TestUnixSocketIsOursAndGoesAway(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l := open(t, "unix", path)
	answers(t, l)
	if URL(l) != "unix:"+path {
		t.Errorf("URL is %q, want %q", URL(l), "unix:"+path)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != socketMode {
		t.Errorf("mode %v (%v), want %v", info.Mode(), err, socketMode)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestStaleUnixSocketIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	old := open(t, "unix", path)
	old.(*net.UnixListener).SetUnlinkOnClose(false)
	old.Close()
	answers(t, open(t, "unix", path))
}

func TestLiveUnixSocketIsLeftAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	live := open(t, "unix", path)
	if _, err := Open(t.Context(), "unix", path); !errors.Is(err, syscall.EADDRINUSE) {
		t.Fatalf("got %v, want address in use", err)
	}
	answers(t, live)
}

func TestFileInTheWayIsLeftAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), "unix", path); !errors.Is(err, errNotSocket) {
		t.Fatalf("got %v, want %v", err, errNotSocket)
	}
	if text, err := os.ReadFile(path); string(text) != "mine" {
		t.Fatalf("file holds %q (%v), want it untouched", text, err)
	}
}
