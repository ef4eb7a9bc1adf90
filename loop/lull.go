package loop

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// How the loop waits. gnet waits through Go's scheduler: when no event is there it yields, which
// wakes another thread of the runtime to look for work, and a wait of some microseconds takes its
// processor away. A busy loop seldom waits. One that is woken for each request would pay more for
// that than for the request. So after a batch with little in it the loop waits for a while in the
// kernel, in two ways:
//
//   - a lull lasts until an event comes. Doorbells it answers itself; all else is gnet's.
//   - a nap, while requests wait for a thread of every worker, lasts its time: whatever comes
//     cannot be served sooner for being seen sooner, and a reply that waits a little finds company.
//     Only a worker that has nothing left to do ends it.
//
// Go's scheduler is not told of these waits, so the loop keeps its processor. Who wants to stop
// the loop's goroutine, such as the collector of garbage, interrupts the wait by the runtime's
// signal; if that comes just before the wait, it is lost, and lullMax is the delay.
const (
	lullMax = time.Millisecond
	// lullTurnsMax is how often the loop waits before gnet and Go's scheduler have their turn.
	lullTurnsMax = 64
	// lullBatchMax is how many requests and replies make a batch after which more will have come.
	lullBatchMax = 8

	// napPerWaiting is the length of a nap for each request that waits for a thread.
	napPerWaiting = 25 * time.Microsecond
	napMax        = time.Millisecond
)

// lull waits for events if there were few at hand. It is called after the flush. That is in the
// midst of gnet's batch: of its other events the descriptor still tells, of its tasks it does not.
func (l *loop) lull() {
	busy := l.handled > lullBatchMax
	l.handled = 0
	if !busy && l.poller >= 0 {
		l.await()
	}
	if len(l.corked) > 0 {
		l.flushSoon() // it looks after them
	}
}

// await lulls and naps until gnet has something to do.
func (l *loop) await() {
	for turn := 0; turn < lullTurnsMax && !l.flushComing && l.tasks.Load() == 0; turn++ {
		nap, patience := l.napTime(), lullMax
		if nap > 0 {
			patience = 0
		}
		switch {
		case awaitInput(patience, l.poller):
			if !l.answerDoorbells() {
				l.flushSoon() // behind the events, which gnet handles now
				return
			}
		case nap > 0:
			if !l.nap(nap) {
				return
			}
		case len(l.corked) > 0: // nothing came in a lull: the next answer takes its time
			l.uncorkAll()
		default:
			return
		}
		l.uncork()
	}
}

// answerDoorbells takes the replies of workers that have rung; false when none has.
func (l *loop) answerDoorbells() bool {
	answered := false
	for i := 0; i < len(l.lanes); i++ {
		ln := l.lanes[i]
		if ln.down || !ln.bridge.Rung() {
			continue
		}
		answered = ln.bridge.Silence() || answered // else it has ended: that is gnet's to tell
		l.takeReplies(ln)
	}
	return answered
}

// napTime is how long the loop may look away: 0 when a worker has a thread free, or none is there.
func (l *loop) napTime() time.Duration {
	waiting := int64(-1)
	for _, ln := range l.lanes {
		if ln.down || ln.draining {
			continue
		}
		if n := ln.member.inFlight.Load() - ln.threads; waiting < 0 || n < waiting {
			waiting = max(n, 0)
		}
	}
	return min(time.Duration(max(waiting, 0))*napPerWaiting, napMax)
}

// nap looks away for a while, or until a worker has nothing left to do, and takes the replies then.
// False when it is not possible.
func (l *loop) nap(d time.Duration) bool {
	var doorbells [napLanesMax]int
	if len(l.lanes) > len(doorbells) {
		return false
	}
	awake := false
	for i, ln := range l.lanes {
		doorbells[i] = ln.bridge.DoorbellFD()
		awake = awake || !ln.bridge.Nap()
	}
	if !awake {
		awaitInput(d, doorbells[:len(l.lanes)]...)
	}
	ended := false
	for _, ln := range l.lanes {
		ended = ln.bridge.Rung() && !ln.bridge.Silence() || ended
	}
	l.takeAllReplies()
	return !ended
}

// napLanesMax is how many workers a loop that naps may have.
const napLanesMax = 64

// awaitInput waits until one of the descriptors is readable or was closed by its other side: false
// when none is. It keeps the processor, and may return early.
func awaitInput(d time.Duration, fds ...int) bool {
	var polled [napLanesMax]unix.PollFd
	for i, fd := range fds {
		polled[i] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	}
	limit := unix.NsecToTimespec(int64(d))
	n, _, errno := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&polled)),
		uintptr(len(fds)), uintptr(unsafe.Pointer(&limit)), 0, 0, 0)
	return errno == 0 && n > 0
}

// pollerOf finds the epoll descriptor that watches fd (proc_pid_fdinfo(5)); -1 if it cannot.
func pollerOf(fd int) int {
	const dir = "/proc/self/fdinfo/"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return -1
	}
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil && watches(dir+e.Name(), fd) {
			return n
		}
	}
	return -1
}

// watches reports whether the descriptor with this information is of an epoll that watches fd.
func watches(info string, fd int) bool {
	f, err := os.Open(info)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var watched int
		if n, _ := fmt.Sscanf(lines.Text(), "tfd: %d", &watched); n == 1 && watched == fd {
			return true
		}
	}
	return false
}
