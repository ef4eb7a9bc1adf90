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
package loop

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"gophersnake/loop/http1"
)

// Config is read once by New.
type Config struct {
	Loops  int
	Limits http1.Limits

	HeaderTimeout  time.Duration // from a head's first byte to its last; 408
	BodyTimeout    time.Duration // between two reads of a body; 408
	KeepAlive      time.Duration // an idle client between requests; 0: every answer closes
	WriteTimeout   time.Duration // without progress while an answer is written
	QueueTimeout   time.Duration // a request waiting for a thread; 503
	RequestTimeout time.Duration // a request from arrival to the end of its answer; 504; 0: none

	ConnectionsMax int // clients at a time, over all loops; more are closed at once
	QueueMax       int // requests waiting for a thread, over all loops; 503

	TempDir string // for request bodies beyond BodyMemoryBytesMax; "" is the system's
	Log     *slog.Logger
}

// Reactor owns the loops. Its methods may be called from any goroutine.
type Reactor struct {
	cfg   Config
	loops []*loop

	mu        sync.Mutex
	listeners []net.Listener
	members   map[Worker]*member // under mu
	closing   atomic.Bool        // no new clients, no second request of a client

	clients  atomic.Int64 // open now, over all loops
	failed   chan error
	stopped  chan struct{}
	acceptWG sync.WaitGroup
}

// New starts the loops. They serve nothing until Open and AddWorker are called.
func New(cfg Config) (*Reactor, error) {
	r := &Reactor{
		cfg: cfg, members: make(map[Worker]*member),
		failed: make(chan error, 1), stopped: make(chan struct{}),
	}
	for i := range cfg.Loops {
		l, err := newLoop(r, i)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("loop: starting loop %d: %w", i, err), r.stop())
		}
		r.loops = append(r.loops, l)
	}
	go r.clock()
	return r, nil
}

// Failed yields an error when a loop has ended by itself.
func (r *Reactor) Failed() <-chan error { return r.failed }

// CloseDoors closes the listeners and the idle clients. A client that is being served is
// closed after its answer.
func (r *Reactor) CloseDoors() {
	if r.closing.Swap(true) {
		return
	}
	r.mu.Lock()
	listeners := r.listeners
	r.mu.Unlock()
	for _, ln := range listeners {
		_ = ln.Close()
	}
	for _, l := range r.loops {
		l.post(l.closeIdle)
	}
}

// Close waits until every client has its answer or ctx ends, and then ends the loops.
func (r *Reactor) Close(ctx context.Context) error {
	r.CloseDoors()
	r.acceptWG.Wait()
	err := r.waitForClients(ctx)
	return errors.Join(err, r.stop())
}

func (r *Reactor) waitForClients(ctx context.Context) error {
	check := time.NewTicker(10 * time.Millisecond)
	defer check.Stop()
	for r.clients.Load() > 0 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-check.C:
		}
	}
	return nil
}

func (r *Reactor) stop() error {
	close(r.stopped)
	var all error
	for _, l := range r.loops {
		all = errors.Join(all, l.stop())
	}
	return all
}

// clockTick is how exact deadlines are.
const clockTick = 100 * time.Millisecond

// clock lets every loop look at its timing list. A loop that has not looked since the last
// tick is busy and gets no second task.
func (r *Reactor) clock() {
	t := time.NewTicker(clockTick)
	defer t.Stop()
	for {
		select {
		case <-r.stopped:
			return
		case <-t.C:
		}
		for _, l := range r.loops {
			if !l.tickPosted.Swap(true) {
				l.post(l.tick)
			}
		}
	}
}
