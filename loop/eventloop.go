package loop

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/panjf2000/gnet/v2"
	"github.com/panjf2000/gnet/v2/pkg/logging"
	"golang.org/x/sys/unix"

	"gophersnake/loop/http1"
	"gophersnake/pybridge"
)

// loop is one event loop and all it owns. Fields belong to the loop's goroutine unless a comment
// says otherwise.
type loop struct {
	reactor *Reactor
	cfg     *Config // read only
	index   int
	log     *slog.Logger

	client gnet.Client    // the engine with this one loop; set before it starts
	events gnet.EventLoop // posts tasks; set before the first client, any goroutine may use it

	parser  *http1.Parser
	request pybridge.Request // reused for every submit
	path    []byte           // reused for decoded paths
	scratch []byte           // reused for error answers
	moving  []byte           // reused for the heads of requests that change workers

	lanes    []*lane
	queue    queue
	timing   timing
	hanging  []hanging // requests that got 504 and whose threads may hang
	now      int64     // nanoseconds since the reactor began, as of the last tick
	clients  map[*client]struct{}
	drainers map[*drainer]struct{}
	notes    map[string]*note // by limit

	corked   []*client // with answers that wait for the next one; some have got it since
	corkedAt int64     // loop time since when the first of them

	lookTimer *time.Timer
	lookArmed bool
	stale     bool  // some request has waited long in a slot, as of the last look
	batch     int64 // nanoseconds since the reactor began, at the first event of this batch

	flushComing bool
	turns       turns
	handled     int          // requests and replies since the last turn's wait
	expiring    bool         // more deadlines have passed than one turn has looked after
	tickPosted  atomic.Bool  // any goroutine
	tasks       atomic.Int64 // that gnet has and has not run; any goroutine

	date   []byte
	dateAt int64
	stats  stats

	// Closed connections, of this batch and of the one before. With the build tag poll_opt gnet has
	// their addresses in the kernel's list of events only, where the collector of garbage does not
	// see them, and an event may come behind the one that closed them.
	closed [2][]gnet.Conn

	self   int   // an eventfd: what is written to it comes back as an event, OnTraffic(*loop)
	owners []any // by descriptor that gnet watches: *client, *lane or *loop

	posting sync.RWMutex // held while a task is handed to gnet, and to set ended
	ended   bool         // gnet must not be called any more
}

// newLoop starts one gnet engine with one loop. gnet's own acceptor is not used: it ends the
// whole engine when descriptors run out, and it cannot take an inherited listener.
func newLoop(r *Reactor, index int) (*loop, error) {
	l := &loop{
		reactor: r, cfg: &r.cfg, index: index, log: r.cfg.Log.With("loop", index),
		parser:  http1.NewParser(r.cfg.Limits),
		clients: make(map[*client]struct{}), drainers: make(map[*drainer]struct{}),
		notes: make(map[string]*note), self: -1, turns: turns{poller: -1},
	}
	l.queue.all = &r.queued
	l.timing.init(&r.cfg)
	l.scratch = make([]byte, 0, 1024)
	engine, err := gnet.NewClient(&callbacks{loop: l}, gnet.WithNumEventLoop(1),
		gnet.WithLogger(gnetLog{l.log}), gnet.WithLogLevel(logging.ErrorLevel))
	if err != nil {
		return nil, err
	}
	l.client = *engine
	if err := l.client.Start(); err != nil {
		return nil, err
	}
	if err := l.openSelf(); err != nil {
		return nil, errors.Join(err, l.stop())
	}
	return l, nil
}

// openSelf enrols an eventfd of our own. Its event loop is how tasks are posted: gnet gives it out
// only with a connection. gnet enrols sockets only, so the eventfd takes the place of one.
func (l *loop) openSelf() error {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if l.self, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return errors.Join(err, unix.Close(fds[0]), unix.Close(fds[1]))
	}
	socket, err := fileConn(fds[0], "loop")
	err = errors.Join(err, unix.Close(fds[1]))
	if err != nil {
		return err
	}
	defer func() { _ = socket.Close() }()
	if err := replace(socket, l.self); err != nil {
		return err
	}
	near, err := l.enroll(socket, l)
	if err != nil {
		return err
	}
	l.events = near.EventLoop()
	l.turns.find(near.Fd())
	return nil
}

// replace makes the descriptor of a socket one of the open file behind fd.
func replace(socket net.Conn, fd int) error {
	raw, err := socket.(*net.UnixConn).SyscallConn()
	if err != nil {
		return err
	}
	failed := raw.Control(func(s uintptr) { err = unix.Dup3(fd, int(s), unix.O_CLOEXEC) })
	return errors.Join(failed, err)
}

// fileConn makes a net.Conn of a descriptor, which it takes over.
func fileConn(fd int, name string) (net.Conn, error) {
	f := os.NewFile(uintptr(fd), name)
	defer func() { _ = f.Close() }()
	return net.FileConn(f)
}

// duplicate makes a second descriptor of an open file, which the caller closes.
func duplicate(fd int) (int, error) {
	return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
}

// post runs f on the loop, after the events at hand; not at all when the loop has ended. Any
// goroutine may call it.
func (l *loop) post(f func()) {
	l.posting.RLock()
	defer l.posting.RUnlock()
	if l.ended {
		return
	}
	l.tasks.Add(1)
	if l.events.Execute(context.Background(), task{l, f}) != nil {
		l.tasks.Add(-1)
	}
}

// enroll gives gnet a connection and waits until the loop has opened it. Not on the loop itself.
func (l *loop) enroll(c net.Conn, owner any) (gnet.Conn, error) {
	l.tasks.Add(1)
	defer l.tasks.Add(-1)
	return l.client.EnrollContext(c, owner)
}

// task is a function that gnet runs on the loop.
type task struct {
	loop *loop
	f    func()
}

func (t task) Run(context.Context) error {
	t.loop.tasks.Add(-1)
	defer t.loop.recover(nil)
	t.f()
	return nil
}

// recover turns a panic into the end of one client: gnet would let it end the process.
func (l *loop) recover(c *client) {
	p := recover()
	if p == nil {
		return
	}
	l.stats.panics.Add(1)
	l.log.Error("panic in the reactor; its client is closed", "panic", fmt.Sprint(p),
		"panics", l.stats.panics.Load(), "stack", string(debug.Stack()))
	if c != nil {
		defer func() {
			if p := recover(); p != nil {
				l.log.Error("panic while closing a client", "panic", fmt.Sprint(p))
			}
		}()
		l.drop(c)
	}
}

// callbacks is what gnet calls, always on the loop.
type callbacks struct {
	gnet.BuiltinEventEngine
	loop *loop
}

func (cb *callbacks) OnOpen(gc gnet.Conn) ([]byte, gnet.Action) {
	cb.loop.setOwner(gc.Fd(), gc.Context())
	switch owner := gc.Context().(type) {
	case *client:
		defer cb.loop.recover(owner)
		cb.loop.opened(owner, gc)
	case *lane: // not where it is enrolled: its worker may die before that goroutine goes on
		owner.bell = gc
	}
	return nil, gnet.None
}

// OnTraffic takes all bytes at once: gnet's buffer holds them only until this returns
// (invariant 3), and its own left-over buffer has no bound.
func (cb *callbacks) OnTraffic(gc gnet.Conn) gnet.Action {
	data, err := gc.Next(-1)
	l := cb.loop
	switch owner := gc.Context().(type) {
	case *client:
		defer l.recover(owner)
		if err == nil {
			l.received(owner, data)
		}
	case *lane:
		defer l.recover(nil)
		l.takeReplies(owner)
		l.flushSoon()
	case *loop:
		defer l.recover(nil)
		l.forgetClosed()
		l.flush()
		l.takeTurns()
	}
	return gnet.None
}

func (cb *callbacks) OnClose(gc gnet.Conn, err error) gnet.Action {
	l := cb.loop
	l.closed[0] = append(l.closed[0], gc)
	l.setOwner(gc.Fd(), nil)
	switch owner := gc.Context().(type) {
	case *client:
		defer l.recover(owner)
		l.hungUp(owner, err)
	case *lane:
		defer l.recover(nil)
		l.laneDown(owner)
	case *loop:
		l.reactor.loopEnded(l.index)
	}
	return gnet.None
}

// flushSoon makes the flush run once, after the events that are ready now: a doorbell a batch, not
// one a request. A task would need memory, and gnet runs tasks before it looks at sockets.
func (l *loop) flushSoon() {
	if l.flushComing {
		return
	}
	l.flushComing, l.batch = true, l.reactor.monotonic()
	if !l.turns.running {
		signalEvent(l.self)
	}
}

// signalEvent makes an eventfd readable.
func signalEvent(fd int) {
	one := uint64(1)
	_, _, _ = unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&one)), 8)
}

// setOwner notes whose events come by a descriptor of gnet's.
func (l *loop) setOwner(fd int, owner any) {
	if fd >= len(l.owners) {
		l.owners = append(l.owners, make([]any, fd+1-len(l.owners))...)
	}
	l.owners[fd] = owner
}

// flush rings the workers that got requests and takes the replies that came meanwhile.
func (l *loop) flush() {
	l.flushComing = false
	if l.expiring {
		l.expiring = false
		l.expireDue()
	}
	for _, ln := range l.lanes {
		if ln.unrung > 0 {
			ln.ring()
		}
	}
	l.takeAllReplies()
	if l.queue.len > 0 {
		l.pump()
	}
	l.uncork()
}

// forgetClosed lets go of the connections that were closed before it was called last: the events of
// their batch are over, for a batch of gnet's calls it once at most.
func (l *loop) forgetClosed() {
	if len(l.closed[0])+len(l.closed[1]) == 0 {
		return
	}
	clear(l.closed[1])
	l.closed[0], l.closed[1] = l.closed[1][:0], l.closed[0]
}

func (l *loop) takeAllReplies() {
	for i := 0; i < len(l.lanes); i++ {
		l.takeReplies(l.lanes[i])
	}
}

// stop ends the loop. What is posted later is dropped.
func (l *loop) stop() error {
	if l.events != nil {
		done := make(chan struct{})
		l.post(func() {
			defer close(done)
			l.closeAll()
		})
		select {
		case <-done:
		case <-time.After(stopMax): // the loop is dead or stuck
		}
	}
	l.posting.Lock()
	l.ended = true
	l.posting.Unlock()
	err := l.client.Stop()
	if l.self >= 0 {
		_ = unix.Close(l.self)
	}
	return err
}

// stopMax is how long a loop may take to close its clients.
const stopMax = 5 * time.Second

// httpDate is the Date of this second (RFC 9110 §5.6.7), made once a second.
func (l *loop) httpDate() []byte {
	now := time.Now()
	if s := now.Unix(); s != l.dateAt || l.date == nil {
		l.dateAt = s
		l.date = now.UTC().AppendFormat(l.date[:0], "Mon, 02 Jan 2006 15:04:05 GMT")
	}
	return l.date
}

// gnetLog lets gnet's rare words reach our log.
type gnetLog struct{ log *slog.Logger }

func (g gnetLog) Debugf(string, ...any) {}
func (g gnetLog) Infof(string, ...any)  {}
func (g gnetLog) Warnf(format string, args ...any) {
	g.log.Debug("gnet: " + fmt.Sprintf(format, args...))
}
func (g gnetLog) Errorf(format string, args ...any) {
	g.log.Error("gnet: " + fmt.Sprintf(format, args...))
}
func (g gnetLog) Fatalf(format string, args ...any) { g.Errorf(format, args...) }
