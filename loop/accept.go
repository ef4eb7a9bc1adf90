package loop

import (
	"errors"
	"net"
	"time"

	"github.com/panjf2000/gnet/v2"
	"golang.org/x/sys/unix"
)

// Pauses of an acceptor that ran out of descriptors or memory.
const (
	acceptPauseMin = 5 * time.Millisecond
	acceptPauseMax = 500 * time.Millisecond
)

// Open begins to accept clients from ln, which the reactor closes in CloseDoors. id tells a
// worker which listener a request came by.
func (r *Reactor) Open(ln net.Listener, id uint16) {
	r.mu.Lock()
	r.listeners = append(r.listeners, ln)
	r.mu.Unlock()
	if r.closing.Load() {
		_ = ln.Close()
		return
	}
	for _, l := range r.loops {
		r.acceptWG.Add(1)
		go func() {
			defer r.acceptWG.Done()
			l.accept(ln, id)
		}()
	}
}

// accept hands clients of one listener to one loop, until the listener closes. When descriptors
// run out it pauses and tries again: existing clients go on, nothing spins and nothing ends.
func (l *loop) accept(ln net.Listener, id uint16) {
	pause := time.Duration(0)
	for {
		conn, err := ln.Accept()
		if err == nil {
			pause = 0
			l.admit(conn, id)
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if pause == 0 {
			pause = acceptPauseMin
			l.log.Warn("cannot accept clients now", "error", err)
		}
		pause = min(2*pause, acceptPauseMax)
		select {
		case <-time.After(pause):
		case <-l.reactor.stopped:
			return
		}
	}
}

// admit enrols one accepted connection in the loop.
func (l *loop) admit(conn net.Conn, id uint16) {
	r := l.reactor
	if r.clients.Add(1) > int64(r.cfg.ConnectionsMax) || r.closing.Load() {
		r.clients.Add(-1)
		_ = conn.Close()
		return
	}
	c := &client{loop: l, listener: id, fd: -1}
	if a, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		c.addr, c.port = a.IP.String(), uint16(a.Port)
	}
	if _, err := l.client.EnrollContext(conn, c); err != nil {
		r.clients.Add(-1)
		if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
			time.Sleep(acceptPauseMin)
		}
		l.log.Warn("cannot serve a client", "error", err)
	}
}

// opened is a client's first moment on its loop.
func (l *loop) opened(c *client, conn gnet.Conn) {
	c.conn, c.fd = conn, conn.Fd()
	l.clients[c] = struct{}{}
	l.timing.set(c, timerHead, l.now)
}

// dropAnchor enrols a socket of our own. Its event loop is how tasks are posted: gnet gives it
// out only with a connection.
func (l *loop) dropAnchor() error {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	near, err := fileConn(fds[0], "anchor")
	if err != nil {
		_ = unix.Close(fds[1])
		return err
	}
	l.anchorEnd, err = fileConn(fds[1], "anchor")
	if err != nil {
		return err
	}
	l.anchor, err = l.client.EnrollContext(near, nil)
	if err != nil {
		return err
	}
	l.events = l.anchor.EventLoop()
	return nil
}
