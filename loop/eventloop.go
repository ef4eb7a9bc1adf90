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

	lookTimer *time.Timer
	lookArmed bool
	stale     bool  // some request has waited long in a slot, as of the last look
	batch     int64 // nanoseconds since the reactor began, at the first event of this batch

	flushPosted  bool
	againWritten bool
	tickPosted   atomic.Bool // any goroutine

	date   []byte
	dateAt int64
	stats  stats

	// Two ends of a socket of our own: near is in the loop, and what is written to far comes
	// back as an event.
	near gnet.Conn
	far  net.Conn

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
		notes: make(map[string]*note),
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

// openSelf enrols a socket of our own. Its event loop is how tasks are posted: gnet gives it out
// only with a connection.
func (l *loop) openSelf() error {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	near, err := fileConn(fds[0], "loop")
	if err != nil {
		_ = unix.Close(fds[1])
		return err
	}
	if l.far, err = fileConn(fds[1], "loop"); err != nil {
		_ = near.Close()
		return err
	}
	if l.near, err = l.client.EnrollContext(near, l); err != nil {
		return err
	}
	l.events = l.near.EventLoop()
	return nil
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
	if !l.ended {
		_ = l.events.Execute(context.Background(), task{l, f})
	}
}

// task is a function that gnet runs on the loop.
type task struct {
	loop *loop
	f    func()
}

func (t task) Run(context.Context) error {
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
	case *loop:
		defer l.recover(nil)
		l.againWritten = false
		l.expireDue()
		l.flush()
	}
	return gnet.None
}

func (cb *callbacks) OnClose(gc gnet.Conn, err error) gnet.Action {
	l := cb.loop
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

// flushSoon makes the flush run once, after the events at hand: a doorbell a batch, not one a
// request. It is called on the loop only, so gnet cannot have ended.
func (l *loop) flushSoon() {
	if l.flushPosted {
		return
	}
	l.flushPosted, l.batch = true, l.reactor.monotonic()
	_ = l.events.Execute(context.Background(), (*flusher)(l))
}

// flusher is a loop as gnet's task: one for all flushes, so that none is allocated.
type flusher loop

func (f *flusher) Run(context.Context) error {
	l := (*loop)(f)
	defer l.recover(nil)
	l.flushPosted = false
	l.flush()
	return nil
}

// flush rings the workers that got requests and takes the replies that came meanwhile.
func (l *loop) flush() {
	for _, ln := range l.lanes {
		if ln.touched {
			ln.touched = false
			ln.bridge.Ring()
		}
	}
	for i := 0; i < len(l.lanes); i++ {
		l.takeReplies(l.lanes[i])
	}
	if l.queue.len > 0 {
		l.pump()
	}
}

// again makes the flush run after the events that wait now. A task would run before them: gnet
// empties its task queue before it looks at sockets.
func (l *loop) again() {
	if l.againWritten {
		return
	}
	l.againWritten = true
	_, _ = l.far.Write(oneByte)
}

var oneByte = []byte{1} // never written to

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
	if l.far != nil {
		_ = l.far.Close()
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
