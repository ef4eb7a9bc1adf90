package loop

import (
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Stats is what the reactor has counted since it began, and how it stands now. Counters of several
// loops are added without stopping them, so that sums may be off by what happens meanwhile.
type Stats struct {
	Answers [6]uint64 // final answers by class of their status, [2] is 2xx; ours too

	InFlight   int64 // requests in workers' slots
	Waiting    int64 // of those and of the queue, requests that no thread has begun; see --queue
	WaitingMax int64 // since the reactor began
	Waits      Waits // of all requests that a thread has begun
	Recent     Waits // of the last minute

	Stolen uint64 // requests that moved to another worker while theirs was busy
	Moved  uint64 // requests that moved because their worker died

	Refused      uint64            // errors that the reactor itself has answered
	Unavailable  map[string]uint64 // answers 503 of our own, by what ran out
	Clients      int64             // open connections
	Lingering    int64             // of those, with nothing but their end to come
	Panics       uint64
	Corrupt      uint64 // workers that broke the lane format
	Disagreement uint64 // guard against parser
	Workers      []WorkerStats
}

// WorkerStats is one worker in Stats.
type WorkerStats struct {
	ID       int
	Threads  int
	InFlight int64  // requests in its slots, over all loops
	Served   uint64 // requests it has finished
	Retiring bool   // it gets no more
}

// What runs out when a request or client gets 503. The names are those of flags where there is one.
const (
	limitQueue = iota
	limitQueueTimeout
	limitBuffers
	limitSpool
	limitConnections
	limitNoWorkers
	limitOther
	limits

	limitWorkers = "workers"
)

func limitNames() [limits]string {
	return [limits]string{"queue", "queue-timeout", "max-buffers", "max-spool", "max-connections",
		limitWorkers, "other"}
}

// stats are counters of one loop. The loop writes, any goroutine may read.
type stats struct {
	panics       atomic.Uint64
	disagreement atomic.Uint64 // guard against parser
	corrupt      atomic.Uint64 // workers that broke the lane format
	refused      atomic.Uint64
	answers      [6]atomic.Uint64
	unavailable  [limits]atomic.Uint64
	stolen       atomic.Uint64
	moved        atomic.Uint64
	waitingMost  atomic.Int64
	waits        [waitBuckets]atomic.Uint64
}

// answered counts a final answer. The status may come from a worker, who may write anything.
func (s *stats) answered(status uint32) {
	if class := status / 100; class < uint32(len(s.answers)) {
		s.answers[class].Add(1)
	}
}

// refusal counts an answer of our own.
func (s *stats) refusal(status int, limit string) {
	s.refused.Add(1)
	s.answered(uint32(status))
	if status != 503 {
		return
	}
	for i, name := range limitNames() {
		if name == limit || i == limitOther {
			s.unavailable[i].Add(1)
			return
		}
	}
}

// waitBuckets is one more than there are bounds: the last bucket has none.
const waitBuckets = 14

// Waits is a histogram of how long requests waited for a thread: how many at most
// WaitBounds()[i], and more than the bound before. While many are in flight it is a sample.
type Waits [waitBuckets]uint64

// WaitBounds are the upper bounds of the buckets of Waits but the last, which has none.
func WaitBounds() [waitBuckets - 1]time.Duration {
	const ms = time.Millisecond
	return [...]time.Duration{ms / 10, ms, 2 * ms, 5 * ms, 10 * ms, 25 * ms, 50 * ms, 100 * ms,
		250 * ms, 500 * ms, 1000 * ms, 2500 * ms, 5000 * ms}
}

// bucketOf is the bucket of a wait in nanoseconds.
func bucketOf(wait int64) int {
	for i, bound := range WaitBounds() {
		if wait <= int64(bound) {
			return i
		}
	}
	return waitBuckets - 1
}

// waitSample is of how many requests one is asked how long it waited while many are in flight: it
// costs a miss of the cache, 0.6 % of a short request. It counts for all of them.
const waitSample = 8

// waited counts how long the client's request waited for the thread that answers it now. What the
// worker says of that is used within what is possible.
func (l *loop) waited(c *client, ln *lane, slot uint32) {
	weight := uint64(1)
	if ln.inFlight >= waitSample {
		if c.gen%waitSample != 0 {
			return
		}
		weight = waitSample
	}
	wait := ln.bridge.Run(slot).TakenNS - l.reactor.beganNS - c.since
	l.stats.waits[bucketOf(wait)].Add(weight)
}

// clockMonotonic is now by the clock that this process shares with the workers, in nanoseconds.
func clockMonotonic() int64 {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // every Linux has it
	return now.Nano()
}

// Count is how many requests the histogram holds.
func (w *Waits) Count() uint64 {
	n := uint64(0)
	for _, in := range w {
		n += in
	}
	return n
}

// Quantile is a wait that the share q of the requests, 0 to 1, did not exceed: the upper bound of
// its bucket, so never too good. Of the last bucket, which has no bound, it is twice the last one.
func (w *Waits) Quantile(q float64) time.Duration {
	bounds := WaitBounds()
	all := w.Count()
	if all == 0 {
		return 0
	}
	below := uint64(0)
	for i, bound := range bounds {
		if below += w[i]; float64(below) >= q*float64(all) {
			return bound
		}
	}
	return 2 * bounds[len(bounds)-1]
}

// Stats sums the counters up. Any goroutine may call it; no loop is stopped.
func (r *Reactor) Stats() Stats {
	s := Stats{Clients: r.clients.Load(), Lingering: r.lingering.Load(),
		Waiting: r.queued.Load(), Unavailable: make(map[string]uint64, limits)}
	for _, l := range r.loops {
		l.stats.addTo(&s)
	}
	s.Recent = r.recent.since(s.Waits)
	r.mu.Lock()
	defer r.mu.Unlock()
	for w, m := range r.members {
		n := m.inFlight.Load()
		threads := w.Lane(0).Threads() // does not change
		s.InFlight += n
		s.Waiting += max(n-int64(threads), 0)
		s.Workers = append(s.Workers, WorkerStats{ID: w.ID(), Threads: threads, InFlight: n,
			Served: m.served.Load(), Retiring: m.retiring.Load()})
	}
	return s
}

// addTo adds one loop's counters.
func (c *stats) addTo(s *Stats) {
	for i := range c.answers {
		s.Answers[i] += c.answers[i].Load()
	}
	for i := range c.waits {
		s.Waits[i] += c.waits[i].Load()
	}
	for i, name := range limitNames() {
		s.Unavailable[name] += c.unavailable[i].Load()
	}
	s.WaitingMax = max(s.WaitingMax, c.waitingMost.Load())
	s.Refused += c.refused.Load()
	s.Stolen += c.stolen.Load()
	s.Moved += c.moved.Load()
	s.Panics += c.panics.Load()
	s.Corrupt += c.corrupt.Load()
	s.Disagreement += c.disagreement.Load()
}

// What recent waits are made of: a picture every tenth second, of the last minute.
const (
	pictureEvery = 10 * time.Second
	picturesMax  = 6
)

// recent remembers how the histogram stood in the last minute, so that its growth can be told.
type recent struct {
	mu       sync.Mutex
	pictures [picturesMax]Waits // under mu; a ring, zero at first
	next     int                // under mu: the oldest picture, which the next one replaces
}

// add remembers how the histogram stands now.
func (r *recent) add(now Waits) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pictures[r.next] = now
	r.next = (r.next + 1) % picturesMax
}

// since is how much the histogram has grown since the oldest picture.
func (r *recent) since(now Waits) Waits {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, old := range r.pictures[r.next] {
		now[i] -= old
	}
	return now
}
