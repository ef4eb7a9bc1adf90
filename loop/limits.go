package loop

import (
	"sync/atomic"
	"time"
)

// The limits of a client that no flag sets; those with a flag are in Config.
const (
	// bodyMemoryBytesMax is how much of a request body is kept in memory; a longer one goes to a
	// temporary file.
	bodyMemoryBytesMax = 1 << 20

	// answerMemoryBytesMax is how much of one answer waits in memory for a client that reads
	// slowly; the rest goes to a temporary file.
	answerMemoryBytesMax = 1 << 20

	// drainPieceBytes is what a drainer writes under one deadline.
	drainPieceBytes = 64 << 10

	// lingerBytesMax is how much a client may still send after our last byte before it is cut
	// off: closing with unread input would turn into a reset that destroys the answer (RFC 9112
	// §9.6).
	lingerBytesMax = 256 << 10

	// bodyBytesPerSecondMin is the least a body must bring on average once it took longer than one
	// BodyTimeout.
	bodyBytesPerSecondMin = 256

	// refusedClientsMax is how many clients beyond ConnectionsMax are told 503 at a time; others
	// are closed without a word.
	refusedClientsMax = 256

	// backlogClientsMax is how many clients are taken out of a listener's backlog when it closes.
	backlogClientsMax = 4096

	// pooledBytesMax is the largest buffer that goes back to the pool.
	pooledBytesMax = 256 << 10
)

// A loop gives its other clients a turn after so much of one worker's replies.
const (
	turnRepliesMax = 512
	turnBytesMax   = 1 << 20
)

// ringAhead is how many requests wake a worker while the loop still delivers what it has answered:
// each of those answers may bring the next request of a client that pipelines, and the worker can
// begin with them meanwhile.
const ringAhead = 16

// expiriesPerTurnMax is how many deadlines one look at the timing list handles: each may close a
// socket.
const expiriesPerTurnMax = 1024

const (
	// lingerTime is how long a client has to close its end after our last byte.
	lingerTime = 2 * time.Second

	// freshTime is how long a client that has not asked anything yet keeps its connection when
	// the server stops: its request may be on the way.
	freshTime = time.Second

	// promisedTime is how long a client whose last answer promised to keep the connection may
	// still use it when another server takes over; KeepAlive, if that is shorter.
	promisedTime = 5 * time.Second

	// stalledTime is how long a client may take nothing of its answer while temporary files are
	// used up and others wait: then it is closed to make room.
	stalledTime = time.Second

	// noteEvery is how often one loop logs that one limit was reached.
	noteEvery = time.Second
)

// budget is a bound over all loops. Any goroutine may use it.
type budget struct {
	used atomic.Int64
	max  int64
}

// take books n bytes, if there is room.
func (b *budget) take(n int64) bool {
	if b.used.Add(n) > b.max {
		b.used.Add(-n)
		return false
	}
	return true
}

// takeHalf books n bytes, if that leaves half of the budget free.
func (b *budget) takeHalf(n int64) bool {
	if b.used.Add(n) > b.max/2 {
		b.used.Add(-n)
		return false
	}
	return true
}

func (b *budget) give(n int64) { b.used.Add(-n) }

// note counts how often a limit was reached since it was last in the log.
type note struct {
	at      int64 // loop time of the line
	skipped int
}

// reached tells the log that a client ran into a limit, at most once in noteEvery. limit is the
// name of its flag.
func (l *loop) reached(limit, what string, c *client) {
	n := l.notes[limit]
	if n != nil && l.now-n.at < int64(noteEvery) {
		n.skipped++
		return
	}
	if n == nil {
		n = &note{}
		l.notes[limit] = n
	}
	l.log.Info("limit reached", "limit", limit, "what", what, "client", c.addr,
		"more", n.skipped)
	*n = note{at: l.now}
}

// sumUp logs the counts that were held back, when a flood has ended.
func (l *loop) sumUp() {
	for limit, n := range l.notes {
		if n.skipped > 0 && l.now-n.at >= int64(noteEvery) {
			l.log.Info("limit reached", "limit", limit, "more", n.skipped)
			*n = note{at: l.now}
		}
	}
}
