package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// NoServerError says that there is nobody to ask.
type NoServerError struct{ Text string }

func (e *NoServerError) Error() string { return e.Text }

// RefusedError is the server's no, with its reason.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return e.Reason }

// patience is what a client adds to the server's own limits.
const patience = 5 * time.Second

// Locate returns the one server that serves dir or was started in it.
func Locate(p Place, dir string) (string, error) {
	here, others := p.Find(dir)
	here, others = living(here), living(others)
	const name = "; name one with --control-socket:\n  "
	switch {
	case len(here) == 1:
		return here[0], nil
	case len(here) > 1:
		if path, only := incumbent(here); only {
			return path, nil
		}
		return "", &NoServerError{fmt.Sprintf("%d servers run in %s%s%s", len(here), dir, name,
			described(here))}
	case len(others) > 0:
		return "", &NoServerError{fmt.Sprintf("no server of %s runs; others do%s%s", dir, name,
			described(others))}
	}
	return "", &NoServerError{fmt.Sprintf("no server of %s runs under this user", dir)}
}

// incumbent finds the one server that is neither starting nor stopping: during an upgrade, the old
// server and the new one both run.
func incumbent(paths []string) (found string, only bool) {
	for _, path := range paths {
		status, err := statusOf(context.Background(), path)
		if err != nil {
			return "", false // it may be the one that was meant
		}
		if status.State == StateStarting || status.State == StateStopping {
			continue
		}
		if found != "" {
			return "", false
		}
		found = path
	}
	return found, found != ""
}

// described is sockets with what their servers serve, a line each: a name alone tells nobody which
// one is meant. Servers that do not answer, together within dialMax, are named only.
func described(paths []string) string {
	ctx, cancel := context.WithTimeout(context.Background(), dialMax)
	defer cancel()
	lines := make([]string, len(paths))
	for i, path := range paths {
		lines[i] = path
		if status, err := statusOf(ctx, path); err == nil {
			lines[i] += fmt.Sprintf("  (%s in %s, pid %d)", status.App, status.Dir, status.PID)
		}
	}
	return strings.Join(lines, "\n  ")
}

// statusOf asks a server that should be quick.
func statusOf(ctx context.Context, path string) (status Status, err error) {
	ctx, cancel := context.WithTimeout(ctx, dialMax)
	defer cancel()
	result, err := Do(ctx, path, Request{Command: CommandStatus})
	if err == nil {
		err = json.Unmarshal(result, &status)
	}
	return status, err
}

func living(paths []string) []string {
	var all []string
	for _, path := range paths {
		if stateOf(path) == alive {
			all = append(all, path)
		}
	}
	return all
}

// Do sends one request to the server at path and returns its result. A drain that ends the
// server returns when its process is gone.
func Do(ctx context.Context, path string, r Request) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, timeOf(r.Command)+patience)
	defer cancel()
	dialer := net.Dialer{Timeout: dialMax}
	conn, err := dialer.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, &NoServerError{unreachable(path, cause(err))}
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()

	gone := watchPeer(conn.(*net.UnixConn))
	defer gone.close()
	answer, err := exchange(conn, r)
	if err != nil {
		return nil, errors.Join(err, context.Cause(ctx))
	}
	if answer.Error != "" {
		return nil, &RefusedError{answer.Error}
	}
	if r.Command == CommandDrain && r.Exit {
		gone.wait(patience)
	}
	return answer.Result, nil
}

func unreachable(path string, why error) string {
	text := fmt.Sprintf("no server answers at %s: %v", path, why)
	if errors.Is(why, unix.EACCES) {
		text += "; only the server's user and root may ask it"
	}
	return text
}

func exchange(conn net.Conn, r Request) (a Answer, err error) {
	text, err := json.Marshal(r)
	if err != nil {
		return a, err
	}
	// A server that refuses does not read the request, and its answer is there all the same.
	_, unsent := conn.Write(append(text, '\n'))
	// The answer is wrapped once more, hence the room beyond.
	limited := io.LimitReader(conn, AnswerBytesMax+RequestBytesMax)
	line, err := bufio.NewReader(limited).ReadBytes('\n')
	if err != nil && unsent != nil {
		return a, fmt.Errorf("cannot ask the server: %w", cause(unsent))
	}
	if errors.Is(err, io.EOF) {
		return a, errors.New("the server ended before it answered")
	}
	if err != nil {
		return a, fmt.Errorf("no answer from the server: %w", cause(err))
	}
	if err := json.Unmarshal(line, &a); err != nil {
		return a, fmt.Errorf("cannot read the server's answer: %w", err)
	}
	return a, nil
}

// cause leaves out the addresses that the net package puts around an error.
func cause(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	var number unix.Errno
	if errors.As(err, &number) {
		return number
	}
	return err
}

// pidfd is the process at the other end, which may end while we look; -1 when not known.
type pidfd int

// watchPeer opens it before the request is sent: afterwards its number could be another's.
func watchPeer(conn *net.UnixConn) pidfd {
	peer, err := peerOf(conn)
	if err != nil || peer.Pid <= 0 || int(peer.Pid) == os.Getpid() {
		return -1
	}
	fd, err := unix.PidfdOpen(int(peer.Pid), 0)
	if err != nil {
		return -1 // another process namespace, or an old kernel
	}
	return pidfd(fd)
}

// wait returns when the process is gone, at the latest after most.
func (p pidfd) wait(most time.Duration) {
	if p < 0 {
		return
	}
	for end := time.Now().Add(most); ; {
		left := time.Until(end)
		fds := []unix.PollFd{{Fd: int32(p), Events: unix.POLLIN}}
		_, err := unix.Poll(fds, max(0, int(left.Milliseconds())))
		if !errors.Is(err, unix.EINTR) || left <= 0 {
			return
		}
	}
}

func (p pidfd) close() {
	if p >= 0 {
		_ = unix.Close(int(p))
	}
}
