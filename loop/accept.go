package loop

import (
	"errors"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/panjf2000/gnet/v2"
	"golang.org/x/sys/unix"
)

// Pauses of an acceptor that ran out of descriptors or memory.
const (
	acceptPauseMin = 5 * time.Millisecond
	acceptPauseMax = 500 * time.Millisecond
)

// door is an open listener.
type door struct {
	net.Listener
	id uint16
}

// Open begins to accept clients from ln, which the reactor closes in CloseDoors. id tells a
// worker which listener a request came by.
func (r *Reactor) Open(ln net.Listener, id uint16) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closing.Load() {
		_ = ln.Close()
		return
	}
	d := door{ln, id}
	r.doors = append(r.doors, d)
	r.acceptors.Add(len(r.loops))
	for _, l := range r.loops {
		go func() {
			defer r.acceptors.Done()
			a := acceptor{loop: l, door: d}
			a.run()
		}()
	}
}

// acceptor hands clients of one listener to one loop, until the listener closes.
type acceptor struct {
	loop  *loop
	door  door
	spare *os.File // a descriptor kept for bad times
	pause time.Duration
	said  time.Time // of the last line in the log
}

func (a *acceptor) run() {
	a.refill()
	defer a.spend()
	for {
		conn, err := a.door.Accept()
		switch {
		case err == nil && a.refill():
			a.pause = 0
			if err := a.loop.admit(conn, a.door.id); err != nil {
				a.say("a new client cannot be served", err)
			}
		case err == nil:
			// It came over the spare descriptor: nothing could be served with it.
			_ = conn.Close()
			a.refill()
		case errors.Is(err, net.ErrClosed):
			return
		case errors.Is(err, unix.EMFILE) && a.spare != nil:
			a.say("descriptors are used up: new clients are closed at once", err)
			a.spend()
		default:
			a.say("cannot accept clients now", err)
			a.rest()
		}
	}
}

// refill takes a spare descriptor if there is none; false when there is none to have.
func (a *acceptor) refill() bool {
	if a.spare == nil {
		if f, err := os.Open(os.DevNull); err == nil {
			a.spare = f
		}
	}
	return a.spare != nil
}

// spend gives the spare descriptor up, so that one more client can be accepted: to be closed, which
// tells it more than a connection that hangs in the backlog.
func (a *acceptor) spend() {
	if a.spare != nil {
		_ = a.spare.Close()
		a.spare = nil
	}
}

// rest waits a little longer each time: nothing spins and nothing ends.
func (a *acceptor) rest() {
	a.pause = min(max(2*a.pause, acceptPauseMin), acceptPauseMax)
	select {
	case <-time.After(a.pause):
	case <-a.loop.reactor.leaving:
	}
}

// say logs at most once in noteEvery.
func (a *acceptor) say(text string, err error) {
	if time.Since(a.said) >= noteEvery {
		a.said = time.Now()
		a.loop.log.Warn(text, "error", err)
	}
}

// admit enrols one accepted connection in the loop. Beyond ConnectionsMax a client is told 503,
// and closed without a word beyond refusedClientsMax more. An error says that it was closed because
// of something else: mostly there is no descriptor left.
func (l *loop) admit(conn net.Conn, id uint16) error {
	r := l.reactor
	most := int64(r.cfg.ConnectionsMax)
	n := r.clients.Add(1)
	if n > most+min(most/8+1, refusedClientsMax) {
		r.clients.Add(-1)
		return conn.Close()
	}
	c := &client{loop: l, listener: id, fd: -1, surplus: n > most}
	if a, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		c.addr, c.port = a.IP.String(), uint16(a.Port)
	}
	_, err := l.enroll(conn, c)
	if !c.opened { // gnet does not tell every reason
		r.clients.Add(-1)
		return errors.Join(errNotOpened, err)
	}
	return nil
}

var errNotOpened = errors.New("loop: gnet did not take the connection")

// opened is a client's first moment on its loop.
func (l *loop) opened(c *client, conn gnet.Conn) {
	c.opened = true
	c.conn, c.fd = conn, conn.Fd()
	l.clients[c] = struct{}{}
	kind := timerHead
	if l.reactor.closing.Load() {
		kind = timerFresh
	}
	l.timing.set(c, kind, l.now)
	if c.surplus {
		l.refuse(c, 503, "too many clients", "max-connections")
	}
}

// takeBacklog admits the clients that the kernel has accepted already: closing the listener would
// reset them.
func (r *Reactor) takeBacklog(d door) {
	sc, ok := d.Listener.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return
	}
	var fds []int
	_ = raw.Control(func(fd uintptr) {
		for len(fds) < backlogClientsMax {
			n, _, err := unix.Accept4(int(fd), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
			switch err {
			case nil:
				fds = append(fds, n)
			case unix.EINTR, unix.ECONNABORTED:
			default:
				return
			}
		}
	})
	for i, fd := range fds {
		if conn, err := fileConn(fd, "client"); err == nil {
			_ = r.loops[i%len(r.loops)].admit(conn, d.id) // else it is closed, as it would be
		}
	}
}
