package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Server answers on one socket, each connection in a goroutine of its own.
type Server struct {
	socket  *Socket
	target  Target
	log     *slog.Logger
	places  chan struct{} // one for each connection at a time
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
}

// Serve begins to answer. The socket belongs to the server from then on.
func Serve(socket *Socket, target Target, log *slog.Logger) *Server {
	s := &Server{socket: socket, target: target, log: log,
		places: make(chan struct{}, ConnectionsMax)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.running.Add(1)
	go s.accept()
	return s
}

// Close stops accepting and gives what is being answered a moment: whoever asked for the
// server's end is to hear of it.
func (s *Server) Close() error {
	err := s.socket.Close()
	idle := make(chan struct{})
	go func() {
		s.running.Wait()
		close(idle)
	}()
	select {
	case <-idle:
	case <-time.After(closeMax):
	}
	s.cancel()
	return err
}

// acceptPause follows an accept that failed: descriptors may have run out.
const acceptPause = 200 * time.Millisecond

func (s *Server) accept() {
	defer s.running.Done()
	for {
		conn, err := s.socket.AcceptUnix()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			s.log.Warn("control socket: cannot accept", "error", err)
			select {
			case <-time.After(acceptPause):
			case <-s.ctx.Done():
				return
			}
			continue
		}
		select {
		case s.places <- struct{}{}:
			s.running.Add(1)
			go func() {
				defer func() { <-s.places; s.running.Done() }()
				s.handle(conn)
			}()
		default:
			s.refuse(conn, fmt.Sprintf("%d commands are running already", ConnectionsMax))
		}
	}
}

// handle answers one connection. A panic of ours must not end a server that works.
func (s *Server) handle(conn *net.UnixConn) {
	defer func() {
		if trouble := recover(); trouble != nil {
			s.log.Error("control socket: panic", "panic", trouble)
		}
		_ = conn.Close()
	}()
	peer, err := peerOf(conn)
	if err != nil || !trusted(peer.Uid) {
		s.log.Warn("control socket: refused", "uid", peer.Uid, "pid", peer.Pid, "error", err)
		write(conn, Answer{Error: "only the server's user and root may use this socket"})
		return
	}
	_ = conn.SetReadDeadline(time.Now().Add(requestMax))
	request, err := readRequest(conn)
	if err != nil {
		write(conn, Answer{Error: err.Error()})
		return
	}
	if timeOf(request.Command) == slowMax {
		s.log.Info("control socket", "command", request.Command, "uid", peer.Uid,
			"pid", peer.Pid)
	}
	ctx, cancel := context.WithTimeout(s.ctx, timeOf(request.Command))
	defer cancel()
	// Recycling all workers ends half done with its context.
	if request.Command != CommandRecycle {
		go cancelWhenGone(ctx, conn, cancel)
	}
	result, err := s.do(ctx, request)
	if err != nil {
		write(conn, Answer{Error: err.Error()})
		return
	}
	text, err := json.Marshal(result)
	switch {
	case err != nil:
		write(conn, Answer{Error: err.Error()})
	case len(text) > AnswerBytesMax:
		write(conn, Answer{Error: fmt.Sprintf("the answer is over %d bytes", AnswerBytesMax)})
	default:
		write(conn, Answer{Result: text})
	}
}

// cancelWhenGone ends ctx when the client has closed its socket, so that the commands of those who
// did not wait for them do not take all places. Reading would not tell: a client that has closed
// its writing half only still waits for the answer.
func cancelWhenGone(ctx context.Context, conn *net.UnixConn, cancel context.CancelFunc) {
	tick := time.NewTicker(goneEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if hungUp(conn) {
			cancel()
			return
		}
	}
}

func hungUp(conn *net.UnixConn) bool {
	raw, err := conn.SyscallConn()
	if err != nil {
		return true
	}
	gone := false
	err = raw.Control(func(fd uintptr) {
		look := []unix.PollFd{{Fd: int32(fd)}} // poll(2): POLLHUP is told unasked
		_, failed := unix.Poll(look, 0)
		gone = failed == nil && look[0].Revents&unix.POLLHUP != 0
	})
	return gone || err != nil
}

// refuse answers without a goroutine; a short answer fits the socket's buffer.
func (s *Server) refuse(conn *net.UnixConn, why string) {
	write(conn, Answer{Error: why})
	_ = conn.Close()
}

func readRequest(conn *net.UnixConn) (Request, error) {
	var request Request
	line, err := bufio.NewReaderSize(conn, RequestBytesMax).ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return request, fmt.Errorf("the request is over %d bytes", RequestBytesMax)
	}
	if err != nil {
		return request, fmt.Errorf("no request: %w", err)
	}
	decoder := json.NewDecoder(bytes.NewReader(line))
	decoder.DisallowUnknownFields() // what is not understood is not half done
	if err := decoder.Decode(&request); err != nil {
		return request, fmt.Errorf("cannot read the request: %w", err)
	}
	return request, nil
}

// do runs one command.
func (s *Server) do(ctx context.Context, r Request) (any, error) {
	switch r.Command {
	case CommandStatus:
		return s.target.Status(ctx)
	case CommandWorkers:
		return s.target.Workers(ctx)
	case CommandThreads:
		return s.target.Threads(ctx)
	case CommandStacks:
		return s.target.Stacks(ctx, r.Worker)
	case CommandReload, CommandScale, CommandRecycle, CommandDrain:
		return s.change(ctx, r)
	}
	return nil, fmt.Errorf("there is no command %q", r.Command)
}

// change runs a command that changes the server, and takes its time.
func (s *Server) change(ctx context.Context, r Request) (done Done, err error) {
	began := time.Now()
	switch {
	case r.Command == CommandReload:
		err = s.target.Reload(ctx)
	case r.Command == CommandScale && r.Count < 1:
		err = errors.New("give a number of workers, at least 1")
	case r.Command == CommandScale:
		err = s.target.Scale(ctx, r.Count)
	case r.Command == CommandRecycle && (r.Worker > 0) == r.All:
		err = errors.New("give the id of one worker, or all")
	case r.Command == CommandRecycle:
		err = s.target.Recycle(ctx, r.Worker)
	case r.Command == CommandDrain:
		err = s.target.Drain(ctx, r.Exit)
	}
	done.Took = time.Since(began).Seconds()
	if err == nil && r.Command == CommandReload {
		status, _ := s.target.Status(ctx) // without it only the number is missing
		done.Generation = status.Generation
	}
	return done, err
}

// write sends an answer. A client that has gone needs none.
func write(conn *net.UnixConn, a Answer) {
	text, err := json.Marshal(a)
	if err != nil {
		return // a string and checked JSON always can be written
	}
	_ = conn.SetWriteDeadline(time.Now().Add(writeMax))
	_, _ = conn.Write(append(text, '\n'))
}

// peerOf asks the kernel who is at the other end.
func peerOf(conn *net.UnixConn) (unix.Ucred, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return unix.Ucred{}, err
	}
	var peer *unix.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) {
		peer, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, failed); err != nil {
		return unix.Ucred{}, err
	}
	return *peer, nil
}

// trusted: the mode of the socket keeps others out already; this holds also where it was
// changed, or was passed on.
func trusted(uid uint32) bool { return uid == 0 || int(uid) == os.Geteuid() }
