package supervise

import (
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// Worker is one Python process as the supervisor sees it. Every method may be called from any
// goroutine and none of them blocks.
type Worker interface {
	ID() int
	PID() int
	Ready() <-chan struct{} // closed when the app is imported and the threads wait
	Done() <-chan struct{}  // closed when the process is gone and reaped
	Exit() Exit             // valid after Done
	Quit()                  // asks it to finish and exit; a second call does nothing
	Kill()                  // SIGKILL; harmless when the process is gone
}

// Exit says how a worker ended.
type Exit struct {
	Code         int    // exit status; -1 when a signal ended it
	Signal       int    // number of the signal that ended it, or 0
	ImportFailed bool   // the app could not be imported; Reason holds the user's traceback
	Reason       string // for people; may have several lines when ImportFailed
}

func (e Exit) String() string {
	switch {
	case e.ImportFailed:
		return "the app could not be imported"
	case e.Reason != "":
		return e.Reason
	case e.Signal != 0:
		return fmt.Sprintf("ended by signal %d", e.Signal)
	}
	return fmt.Sprintf("exited with status %d", e.Code)
}

// line is the exit on one line: of a traceback the last one, which names the exception.
func (e Exit) line() string {
	if !e.ImportFailed {
		return e.String()
	}
	text := strings.TrimSpace(e.Reason)
	text = text[strings.LastIndexByte(text, '\n')+1:]
	return e.String() + ": " + text
}

// Pool is where ready workers take requests: the reactor. Its methods do not block.
type Pool interface {
	// Switch hands requests to in and no more to out, in one step, after which done is closed. A
	// channel for each of out is closed when it has none in flight.
	Switch(in, out []Worker) (done <-chan struct{}, idle []<-chan struct{})
	// Finished is closed when no request waits or runs; no new ones come during a stop.
	Finished() <-chan struct{}
	// Remove fails the requests in flight of a dead worker.
	Remove(Worker)
	// Abort cuts off the answers of a worker that have begun, so that the app closes them.
	Abort(Worker)
	// Aborted counts the answers that Abort has cut off.
	Aborted() uint64
	// Served counts the requests that a worker has finished.
	Served(Worker) uint64
	// NoWorkers says why nobody will take requests before until, at the earliest: they are to be
	// refused at once. An empty why ends that.
	NoWorkers(why string, until time.Time)
}

// Recycling says when a worker has worked long enough; zero values never.
type Recycling struct {
	Requests       int // answered by it
	RequestsJitter int // at most so many more, at random for each worker
	MemoryBytes    int64
	Lifetime       time.Duration // since it was ready, and up to a tenth more
}

// Env is what the supervisor needs from outside; it is read only.
type Env struct {
	// Start makes a worker process and returns without waiting for it to be ready. Ids count
	// from 1 and are never used twice, so that an old worker and its replacement can coexist.
	// Generations count from 1; each reload makes a new one.
	Start func(id, generation int) (Worker, error)
	// Retired is told of a generation whose last worker has gone and that gets no more. It must
	// not block. Nil: nobody asks.
	Retired func(generation int)
	Pool    Pool
	Log     *slog.Logger

	StartTimeout    time.Duration // from Start to Ready; then the worker is killed
	GracefulTimeout time.Duration // from a drain's begin to the exit; then what is left is killed

	WorkersMax int // for Scale; 0: no limit
	Recycling  Recycling
	// Memory is what a process holds, in bytes; 0 when it cannot be told. Needed for
	// Recycling.MemoryBytes only.
	Memory func(pid int) int64
	// Random is a number from 0 to most.
	Random func(most int64) int64
}

// WorkerInfo is one worker at one moment.
type WorkerInfo struct {
	ID, PID, Generation int
	State               string
	Started             time.Time
	Ready               time.Time // zero before it was ready
	Why                 string    // why it is to be replaced, or was; "" when it is not
}
