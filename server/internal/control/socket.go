package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	socketMode = 0o600

	// dialMax is how long a socket may take to accept before it counts as alive: a server
	// whose backlog is full does not answer at once.
	dialMax = 1 * time.Second
)

// ErrInUse says that another server answers on the path.
var ErrInUse = errors.New("another server answers there")

// Socket is a listening control socket that removes its file when closed.
type Socket struct {
	*net.UnixListener
	path string
	file fs.FileInfo // of the socket as made: what is there later may be another server's
}

// Open puts a socket at path that only this user may connect to. What a dead server left there
// is replaced; a live server's is not (ErrInUse), and neither is anything that is no socket.
func Open(path string) (*Socket, error) {
	if len(path) > unixPathMax {
		return nil, fmt.Errorf("control: %s is longer than %d bytes", path, unixPathMax)
	}
	sweep(filepath.Dir(path))
	switch stateOf(path) {
	case absent:
	case stale:
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("control: %w", err)
		}
	case alive:
		return nil, fmt.Errorf("control: %s: %w", path, ErrInUse)
	case foreign:
		return nil, fmt.Errorf("control: %s exists and is not a socket", path)
	}
	config := net.ListenConfig{Control: private}
	l, err := config.Listen(context.Background(), "unix", path)
	if errors.Is(err, unix.EADDRINUSE) { // somebody was quicker
		return nil, fmt.Errorf("control: %s: %w", path, ErrInUse)
	}
	if err != nil {
		return nil, fmt.Errorf("control: %w", err)
	}
	info, err := os.Lstat(path)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("control: %w", err), l.Close())
	}
	s := &Socket{UnixListener: l.(*net.UnixListener), path: path, file: info}
	s.SetUnlinkOnClose(false)
	return s, nil
}

// private sets the mode before bind makes the file from it: a chmod afterwards would leave a
// moment in which others can connect.
func private(_, _ string, c syscall.RawConn) error {
	var failed error
	err := c.Control(func(fd uintptr) { failed = unix.Fchmod(int(fd), socketMode) })
	return errors.Join(err, failed)
}

// Path is where the socket is.
func (s *Socket) Path() string { return s.path }

// Close stops listening and removes the file, unless another server has put its own there.
func (s *Socket) Close() error {
	if info, err := os.Lstat(s.path); err == nil && os.SameFile(info, s.file) {
		_ = os.Remove(s.path) // a directory that has lost its permissions keeps a stale file
	}
	return s.UnixListener.Close()
}

// presence is what is at a path.
type presence int

const (
	absent  presence = iota
	stale            // a socket that nobody listens on
	alive            // a socket that somebody listens on, or that we may not ask
	foreign          // not a socket
)

func stateOf(path string) presence {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return absent
	case err != nil || info.Mode().Type() != fs.ModeSocket:
		return foreign
	}
	conn, err := net.DialTimeout("unix", path, dialMax)
	if err == nil {
		_ = conn.Close()
		return alive
	}
	if errors.Is(err, unix.ECONNREFUSED) {
		return stale
	}
	return alive
}
