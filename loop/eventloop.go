package loop

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/panjf2000/gnet/v2"
	"github.com/panjf2000/gnet/v2/pkg/logging"

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
	request pybridge.Request // reused for every Submit
	path    []byte           // reused for decoded paths
	scratch []byte           // reused for error answers

	lanes  []*lane
	queue  queue
	timing timing
	now    int64 // nanoseconds since start, as of the last tick

	flushPosted bool
	tickPosted  atomic.Bool // any goroutine

	clients   map[*client]struct{}
	date      []byte
	dateAt    int64
	stats     stats
	anchor    gnet.Conn // a connection of our own: the way to the event loop's task queue
	anchorEnd interface{ Close() error }
}

// stats are counters of one loop.
type stats struct {
	panics       uint64
	disagreement uint64 // guard against parser
	refused      uint64
}

// newLoop starts one gnet engine with one loop. gnet's own acceptor is not used: it ends the
// whole engine when descriptors run out, and it cannot take an inherited listener.
func newLoop(r *Reactor, index int) (*loop, error) {
	l := &loop{
		reactor: r, cfg: &r.cfg, index: index, log: r.cfg.Log.With("loop", index),
		parser:  http1.NewParser(r.cfg.Limits),
		clients: make(map[*client]struct{}),
	}
	l.queue.max = max(r.cfg.QueueMax/r.cfg.Loops, 1)
	l.timing.init(&r.cfg)
	engine, err := gnet.NewClient(&callbacks{loop: l},
		gnet.WithNumEventLoop(1), gnet.WithLogger(gnetLog{l.log}), gnet.WithLogLevel(logging.ErrorLevel))
	if err != nil {
		return nil, err
	}
	l.client = *engine
	if err := l.client.Start(); err != nil {
		return nil, err
	}
	return l, l.dropAnchor()
}

// post runs f on the loop, after the events at hand. Any goroutine may call it.
func (l *loop) post(f func()) {
	_ = l.events.Execute(context.Background(), task{l, f})
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
	l.stats.panics++
	l.log.Error("panic in the reactor; its client is closed", "panic", fmt.Sprint(p),
		"stack", string(debug.Stack()))
	if c != nil {
		l.drop(c)
	}
}

// callbacks is what gnet calls, always on the loop.
type callbacks struct {
	gnet.BuiltinEventEngine
	loop *loop
}

func (cb *callbacks) OnOpen(gc gnet.Conn) ([]byte, gnet.Action) {
	if c, ok := gc.Context().(*client); ok {
		defer cb.loop.recover(c)
		cb.loop.opened(c, gc)
	}
	return nil, gnet.None
}

// OnTraffic takes all bytes at once: gnet's buffer holds them only until this returns
// (invariant 3), and its own left-over buffer has no bound.
func (cb *callbacks) OnTraffic(gc gnet.Conn) gnet.Action {
	data, err := gc.Next(-1)
	switch owner := gc.Context().(type) {
	case *client:
		defer cb.loop.recover(owner)
		if err == nil {
			cb.loop.received(owner, data)
		}
	case *lane:
		defer cb.loop.recover(nil)
		cb.loop.takeReplies(owner)
	}
	return gnet.None
}

func (cb *callbacks) OnClose(gc gnet.Conn, err error) gnet.Action {
	switch owner := gc.Context().(type) {
	case *client:
		defer cb.loop.recover(nil)
		cb.loop.hungUp(owner, err)
	case *lane:
		defer cb.loop.recover(nil)
		cb.loop.laneDown(owner)
	}
	return gnet.None
}

// flushSoon makes the flush run once, after the events at hand: a doorbell a batch, not one a
// request.
func (l *loop) flushSoon() {
	if l.flushPosted {
		return
	}
	l.flushPosted = true
	l.post(l.flush)
}

// flush takes the replies that came meanwhile and rings the workers that got requests.
func (l *loop) flush() {
	l.flushPosted = false
	for _, ln := range l.lanes {
		if ln.touched {
			ln.touched = false
			ln.bridge.Ring()
		}
	}
	for i := 0; i < len(l.lanes); i++ {
		l.takeReplies(l.lanes[i])
	}
}

func (l *loop) stop() error {
	_ = l.anchorEnd.Close()
	return l.client.Stop()
}

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
