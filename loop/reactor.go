// Package loop is the reactor: gnet event loops that own clients, parse their requests, hand
// them to workers through lanes and write the answers. It is the only importer of gnet.
//
// Threads. Every loop is one goroutine, gnet's, and owns its clients, its lanes and its timing
// list; nothing of them is touched from elsewhere but by a task posted to that loop. Beside the
// loops there is one accept goroutine for each listener and loop, one drainer for each client whose
// socket is full, and one clock.
//
//	accept.go    listeners to loops            read.go      bytes to requests
//	dispatch.go  requests to lanes             reply.go     replies to sockets
//	drainer.go   what a socket does not take   close.go     the ways a client ends
//	timing.go    deadlines                     members.go   workers that come and go
//	queue.go     requests that wait            steal.go     requests that change workers
//	turns.go     how a loop waits and reads    cork.go      answers that are sent together
//	stats.go     what can be seen from outside
package loop

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"gophersnake/loop/http1"
)

// Limits bounds one request.
type Limits = http1.Limits

// DefaultLimits are the limits of a server started without a flag.
func DefaultLimits() Limits { return http1.DefaultLimits() }

// Config is read once by New.
type Config struct {
	Loops  int
	Limits Limits

	HeaderTimeout  time.Duration // from a connection's start, or a head's first byte; 408
	BodyTimeout    time.Duration // between two reads of a body; 408
	KeepAlive      time.Duration // an idle client between requests; 0: every answer closes
	WriteTimeout   time.Duration // without progress while an answer is written
	QueueTimeout   time.Duration // a request waiting for a thread; 503
	RequestTimeout time.Duration // of a thread, until an answer begins; 504; 0: none
	SlowRequest    time.Duration // of a thread, until an answer begins; 0: no request is slow
	HungAfter      time.Duration // beyond RequestTimeout; 0: no request is hung

	// Overdue is told of such requests, in the loop: it must not block. Nil: they are logged.
	Overdue func(Overdue)

	WebSocket bool // an upgrade request brings the app its client's socket

	ConnectionsMax   int   // clients at a time, over all loops; 503
	QueueMax         int   // requests waiting for a thread, over all loops; 503
	PipelineBytesMax int   // that a client may send ahead; its request at hand is the last one
	BufferBytesMax   int64 // memory for unfinished requests and unsent answers; heads: 503
	SpoolBytesMax    int64 // temporary files for bodies (503) and for answers (threads wait)

	TempDir string // of the temporary files; "" is the system's
	Log     *slog.Logger
}

// Reactor owns the loops. Its methods may be called from any goroutine.
type Reactor struct {
	cfg   Config
	began time.Time
	loops []*loop // not changed after New
	// beganNS is began by CLOCK_MONOTONIC, the clock that workers use.
	beganNS int64

	mu      sync.Mutex
	doors   []door             // under mu
	members map[Worker]*member // under mu
	ended   bool               // under mu: the loops end, nothing may be enrolled
	closing atomic.Bool        // no second request of a client; set under mu
	patient atomic.Bool        // but one that was promised; set before closing

	clients   atomic.Int64 // open now, over all loops
	lingering atomic.Int64 // of those, with nothing but their own end to come
	buffers   budget
	spool     budget
	queued    atomic.Int64 // in the loops' queues
	noWorkers atomic.Pointer[outage]
	recent    recent
	madeRoom  atomic.Int64 // loop time of the last makeRoom
	aborted   atomic.Uint64

	failed    chan error
	leaving   chan struct{} // closed by CloseDoors
	stopped   chan struct{} // closed when the loops are about to end
	acceptors sync.WaitGroup
	helpers   sync.WaitGroup // the clock, and goroutines that link a worker to a loop
}

// New starts the loops. They serve nothing until Open and AddWorker are called.
func New(cfg Config) (*Reactor, error) {
	r := &Reactor{
		cfg: cfg, began: time.Now(), members: make(map[Worker]*member),
		beganNS: clockMonotonic(),
		failed:  make(chan error, 1), leaving: make(chan struct{}), stopped: make(chan struct{}),
	}
	if cpus := cfg.Loops + 1; runtime.GOMAXPROCS(0) < cpus { // loops keep theirs; see turns
		runtime.GOMAXPROCS(cpus)
	}
	r.buffers.max, r.spool.max = cfg.BufferBytesMax, cfg.SpoolBytesMax
	for i := range cfg.Loops {
		l, err := newLoop(r, i)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("loop: starting loop %d: %w", i, err), r.stop())
		}
		r.loops = append(r.loops, l)
	}
	r.helpers.Go(func() { r.every(clockTick, r.tick) })
	r.helpers.Go(func() { r.every(pictureEvery, func() { r.recent.add(r.Stats().Waits) }) })
	return r, nil
}

// Failed yields an error when a loop has ended by itself.
func (r *Reactor) Failed() <-chan error { return r.failed }

// loopEnded is called when a loop's own socket is closed.
func (r *Reactor) loopEnded(index int) {
	select {
	case <-r.stopped:
	default:
		select {
		case r.failed <- fmt.Errorf("loop: loop %d has ended", index):
		default:
		}
	}
}

// CloseDoors closes the listeners and the idle clients. A client that is being served is
// closed after its answer, and so is one that the kernel had accepted already.
func (r *Reactor) CloseDoors() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closing.Swap(true) {
		return
	}
	close(r.leaving)
	for _, d := range r.doors {
		if !r.patient.Load() {
			r.takeBacklog(d)
		}
		_ = d.Close()
	}
	for _, l := range r.loops {
		l.post(l.closeIdle)
		l.post(l.sayLast)
	}
}

// Close waits until every client has its answer or ctx ends, and then ends the loops.
func (r *Reactor) Close(ctx context.Context) error {
	r.CloseDoors()
	r.acceptors.Wait()
	err := r.waitForClients(ctx)
	return errors.Join(err, r.stop())
}

func (r *Reactor) waitForClients(ctx context.Context) error {
	check := time.NewTicker(10 * time.Millisecond)
	defer check.Stop()
	for r.clients.Load() > 0 {
		select {
		case <-ctx.Done():
			if r.clients.Load() <= r.lingering.Load() { // they have their answers
				return nil
			}
			return ctx.Err()
		case <-check.C:
		}
	}
	return nil
}

func (r *Reactor) stop() error {
	r.mu.Lock()
	r.ended = true
	r.mu.Unlock()
	close(r.stopped)
	r.helpers.Wait()
	var all error
	for _, l := range r.loops {
		all = errors.Join(all, l.stop())
	}
	return all
}
