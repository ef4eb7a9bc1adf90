// Package listen opens the sockets clients connect to. What it returns are plain net.Listeners:
// connections wait in the kernel until somebody accepts them, so a socket can be open before
// the app is ready.
package listen

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"
)

// staleDialMax is how long a Unix socket in our way may take to answer before it counts as
// alive: a live server whose backlog is full does not answer at once.
const staleDialMax = 1 * time.Second

// socketMode lets owner and group connect: a web server in front is put into the group.
const socketMode fs.FileMode = 0o660

// Error says why a socket cannot be opened and what to do about it.
type Error struct {
	Address string
	Err     error
	Hint    string
}

func (e *Error) Error() string {
	text := fmt.Sprintf("cannot listen on %s: %v", e.Address, e.Err)
	if e.Hint != "" {
		text += "; " + e.Hint
	}
	return text
}

func (e *Error) Unwrap() error { return e.Err }

// Open listens on address. Network is tcp (for a name, ":port" or "[::]:port" every address
// family the machine has), tcp4 or unix. A Unix socket is removed again by Close.
//
// The backlog is the kernel's somaxconn, and Go sets SO_REUSEADDR and, on accepted
// connections, TCP_NODELAY.
func Open(ctx context.Context, network, address string) (net.Listener, error) {
	if network == "unix" {
		return openUnix(ctx, address)
	}
	// Probes are off: a client has a deadline in every state, and they cost four system calls
	// a connection. Multipath TCP, Go's default for listeners, is slower and not ours to offer.
	lc := net.ListenConfig{KeepAlive: -1}
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(ctx, network, address)
	if err != nil {
		return nil, explain(address, err)
	}
	return l, nil
}

// openUnix puts a socket at path. A socket file that a dead server left behind is removed; one
// that answers, and anything that is not a socket, is not touched.
func openUnix(ctx context.Context, path string) (net.Listener, error) {
	if err := removeStale(ctx, path); err != nil {
		return nil, explain("unix:"+path, err)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return nil, explain("unix:"+path, err)
	}
	if err := os.Chmod(path, socketMode); err != nil {
		return nil, explain("unix:"+path, errors.Join(err, l.Close()))
	}
	return l, nil
}

var errNotSocket = errors.New("the file exists and is not a socket")

func removeStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return errNotSocket
	}
	dialer := net.Dialer{Timeout: staleDialMax}
	c, err := dialer.DialContext(ctx, "unix", path)
	if err == nil {
		return errors.Join(syscall.EADDRINUSE, c.Close())
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return os.Remove(path)
	}
	if errors.Is(err, syscall.EACCES) {
		return syscall.EACCES
	}
	return syscall.EADDRINUSE // nobody refused: somebody is there
}

// explain keeps the system's reason and adds what a person can do.
func explain(address string, err error) *Error {
	e := &Error{Address: address, Err: err}
	var number syscall.Errno
	if errors.As(err, &number) {
		e.Err = number
	}
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		e.Err, e.Hint = fmt.Errorf("no address for %q", dns.Name), "give an IP address"
	case errors.Is(err, errNotSocket):
		e.Hint = "remove it or choose another path"
	case number == syscall.EADDRINUSE:
		e.Hint = "another program listens there: stop it or choose another --listen"
	case number == syscall.EACCES:
		e.Hint = "ports below 1024 need CAP_NET_BIND_SERVICE, sockets a writable directory"
	case number == syscall.EADDRNOTAVAIL:
		e.Hint = "no interface of this machine has that address"
	case number == syscall.ENOENT:
		e.Hint = "create the directory first"
	}
	return e
}

// URL is how people and tests name a listener: http://HOST:PORT with the real port, or
// unix:PATH.
func URL(l net.Listener) string {
	if l.Addr().Network() == "unix" {
		return "unix:" + l.Addr().String()
	}
	return "http://" + l.Addr().String()
}
