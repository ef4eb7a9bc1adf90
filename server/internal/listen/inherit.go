package listen

import (
	"errors"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

var (
	errNotListening = errors.New("it is no listening socket")
	errWrongKind    = errors.New("it is no TCP and no Unix stream socket")
)

// FromFile makes a listener of a socket that somebody else has opened, and closes f. A Unix
// socket's file is not removed by Close; see RemoveOnClose.
//
// Keep-alive probes cannot be turned off for a listener made in this way; they cost a connection
// four cheap system calls.
func FromFile(f *os.File) (net.Listener, error) {
	name := "the inherited socket " + f.Name()
	l, err := fromFile(f)
	if err := errors.Join(err, f.Close()); err != nil {
		e := &Error{Address: name, Err: err}
		if errors.Is(err, errNotListening) {
			e.Hint = "a socket unit needs Accept=no"
		}
		return nil, e
	}
	return l, nil
}

func fromFile(f *os.File) (net.Listener, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	if err := errors.Join(raw.Control(func(fd uintptr) { err = checkListening(int(fd)) }),
		err); err != nil {
		return nil, err
	}
	return net.FileListener(f)
}

func checkListening(fd int) error {
	listening, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil {
		return err
	}
	if listening == 0 {
		return errNotListening
	}
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return err
	}
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return err
	}
	stream := domain == unix.AF_INET || domain == unix.AF_INET6 || domain == unix.AF_UNIX
	if kind != unix.SOCK_STREAM || !stream {
		return errWrongKind
	}
	return nil
}

// RemoveOnClose says whether Close removes the file of a Unix socket. Of several processes that
// share one, the last removes it.
func RemoveOnClose(l net.Listener, remove bool) {
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(remove)
	}
}
