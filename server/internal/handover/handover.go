// Package handover replaces a running server by a new one without closing a listening socket.
//
// The old server starts the new one as its child (Start). The child inherits the listening
// sockets and one end of a link, a socket pair; an environment variable names the descriptors.
// Over the link go three bytes:
//
//	new → old  'r'  it is ready and accepts clients; until then it has changed nothing
//	old → new  'm'  you are to be the server
//	new → old  'k'  it is; then the old one closes the link, finishes and exits
//
// A new server that ends before the 'k', or is not ready in time, is given up (Abandon), and
// nothing has changed for the old one. An old server that vanishes leaves the new one in charge:
// there is nobody else. The new one does nothing as the server before the link is closed, so that
// the old one can tell others who it is.
//
// Both accept from the same sockets for a moment, so no client finds a closed port, and a client
// that waits in the kernel is taken by whoever comes first. The other order, the old one closing
// first, would lose a Unix socket's clients, and its path.
package handover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Variable is the environment variable that names the inherited descriptors.
const Variable = "GOPHERSNAKE_HANDOVER"

const (
	saysReady = 'r'
	saysMain  = 'm'
	saysTaken = 'k'

	// quitMax is how long a new server that is given up may take to leave by itself.
	quitMax = 5 * time.Second
	// exitMax is how long the end of a process may come after the end of its link.
	exitMax = 2 * time.Second
	// takeMax is how long a new server that was ready may take to answer.
	takeMax = 5 * time.Second
)

// Origin is how this process was started, to be kept before anything changes it.
type Origin struct {
	Path string   // of the binary, absolute; links are not followed, so that they can be moved on
	Args []string // with the name of the command
	Dir  string
}

// Offer is one socket that goes over.
type Offer struct {
	Socket syscall.Conn // a listener; it stays the caller's and as it is
	Name   string       // its role
	// Owned: the server made the file of this Unix socket, and its last owner removes it.
	Owned bool
}

// message is the value of Variable.
type message struct {
	Link    int          `json:"link"`
	PID     int          `json:"pid"` // of the old server
	Sockets []descriptor `json:"sockets"`
}

type descriptor struct {
	FD    int    `json:"fd"`
	Name  string `json:"name"`
	Owned bool   `json:"owned,omitempty"`
}

// FindOrigin asks how this process was started. It must be called before the working directory
// changes.
func FindOrigin(args []string) (Origin, error) {
	if len(args) == 0 {
		return Origin{}, errors.New("handover: the command has no name")
	}
	path, err := exec.LookPath(args[0])
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil { // started under a name that is none, as by exec -a
		if path, err = os.Executable(); err != nil {
			return Origin{}, fmt.Errorf("handover: %w", err)
		}
	}
	dir, err := os.Getwd()
	if err != nil {
		return Origin{}, fmt.Errorf("handover: %w", err)
	}
	return Origin{Path: path, Args: args, Dir: dir}, nil
}

// Next is a new server that has been started. It belongs to one goroutine.
type Next struct {
	cmd  *exec.Cmd
	link *os.File
	done chan struct{} // closed when the process is gone and reaped
}

// Start starts the binary at its own path again. env is its environment without Variable.
// Its standard streams are ours.
//
// No signal is set for the death of its parent: that is how this is meant to end.
func Start(o Origin, env []string, offers []Offer) (*Next, error) {
	ours, theirs, err := pair()
	if err != nil {
		return nil, err
	}
	const first = 3 // descriptor of ExtraFiles[0]
	text := message{Link: first, PID: os.Getpid()}
	files := []*os.File{theirs}
	defer func() {
		for _, f := range files {
			_ = f.Close()
		}
	}()
	for _, o := range offers {
		f, err := duplicate(o.Socket, o.Name)
		if err != nil {
			return nil, errors.Join(err, ours.Close())
		}
		text.Sockets = append(text.Sockets, descriptor{first + len(files), o.Name, o.Owned})
		files = append(files, f)
	}
	value, err := json.Marshal(text)
	if err != nil {
		return nil, errors.Join(err, ours.Close())
	}
	cmd := exec.Command(o.Path)
	cmd.Args, cmd.Dir = o.Args, o.Dir
	cmd.Env = append(append([]string{}, env...), Variable+"="+string(value))
	cmd.ExtraFiles = files
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, ours.Close())
	}
	n := &Next{cmd: cmd, link: ours, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // what it returns is in ProcessState
		close(n.done)
	}()
	return n, nil
}

// PID is the new server's.
func (n *Next) PID() int { return n.cmd.Process.Pid }

// Ready waits until the new server accepts clients. The error says why it does not.
func (n *Next) Ready(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = n.link.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	said := make([]byte, 1)
	_, err := io.ReadFull(n.link, said)
	switch {
	case err == nil && said[0] == saysReady:
		return nil
	case err == nil:
		return fmt.Errorf("the new server does not know how to take over (it said %q)", said)
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	select {
	case <-n.done:
		return fmt.Errorf("the new server ended before it was ready: %v", n.cmd.ProcessState)
	case <-time.After(exitMax):
		return errors.New("the new server has closed its link and did not say that it is ready")
	}
}

// Confirm makes the new server the server, from Release on. When it fails, the new one is gone or
// of no use.
func (n *Next) Confirm() error {
	said := make([]byte, 1)
	err := n.link.SetDeadline(time.Now().Add(takeMax))
	if err == nil {
		_, err = n.link.Write([]byte{saysMain})
	}
	if err == nil {
		_, err = io.ReadFull(n.link, said)
	}
	if err == nil && said[0] != saysTaken {
		err = fmt.Errorf("it said %q", said)
	}
	if err != nil {
		return fmt.Errorf("the new server does not take over: %w", err)
	}
	return nil
}

// Release lets the new server begin, and lets go of it: it lives on.
func (n *Next) Release() { _ = n.link.Close() }

// Abandon ends the new server and returns when it is gone. It is asked first: its workers may
// have something to finish.
func (n *Next) Abandon() {
	_ = n.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-n.done:
	case <-time.After(quitMax):
		_ = n.cmd.Process.Kill()
		<-n.done
	}
	_ = n.link.Close()
}

// pair makes the link's two ends, ours and the new server's.
func pair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	_ = unix.SetNonblock(fds[0], true) // so that a read can be interrupted
	return os.NewFile(uintptr(fds[0]), "link"), os.NewFile(uintptr(fds[1]), "link"), nil
}

// duplicate makes a descriptor to be inherited. The File method of a listener would do but for one
// thing: os/exec makes its descriptor blocking, and with it the listener's, whose Accept then
// holds a thread in the kernel and does not end at Close.
func duplicate(c syscall.Conn, name string) (*os.File, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	var fd int
	var failed error
	err = raw.Control(func(from uintptr) {
		fd, failed = unix.FcntlInt(from, unix.F_DUPFD_CLOEXEC, 0)
	})
	if err := errors.Join(err, failed); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// Without is an environment without the variables of these names.
func Without(env []string, names ...string) []string {
	var rest []string
	for _, pair := range env {
		name, _, _ := strings.Cut(pair, "=")
		drop := false
		for _, n := range names {
			drop = drop || n == name
		}
		if !drop {
			rest = append(rest, pair)
		}
	}
	return rest
}
