package loop

import (
	"bufio"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// How the loop waits. gnet waits through Go's scheduler: when no event is there it yields, which
// wakes another thread of the runtime to look for work, and a wait of some microseconds takes its
// processor away. A loop that is woken for each request would pay more for that than for the
// request. So while requests come, the loop takes turns by itself: it waits on gnet's epoll
// descriptor, reads what clients send, hands it out and delivers the replies. New connections, the
// end of old ones and tasks are gnet's: the loop goes back to it, and what it has left there is
// still to be seen (level-triggered).
//
// A turn waits in one of two ways:
//
//   - a lull lasts until an event comes.
//   - a nap, while requests wait for a thread of every worker, lasts its time: whatever comes
//     cannot be served sooner for being seen sooner, and a reply that waits a little finds company.
//     Only a worker that has nothing left to do ends it. There is none after a turn with much in
//     it, when more will have come.
//
// Go's scheduler is not told of these waits, so the loop keeps its processor. Who wants to stop
// the loop's goroutine, such as the collector of garbage, interrupts the wait by the runtime's
// signal; if that comes just before the wait, it is lost, and lullMax is the delay.
type turns struct {
	poller  int // gnet's epoll descriptor; -1 if it could not be told
	tasks   int // gnet's eventfd, by which it hears of tasks; it is watched edge-triggered
	running bool
	ready   [readyMax]unix.EpollEvent
	fds     [readyMax]int
	inbox   [inboxBytes]byte
}

const (
	lullMax = time.Millisecond
	// turnsMax is how often the loop waits before gnet and Go's scheduler have their turn.
	turnsMax = 64
	// closedMax is how many closed connections it keeps for gnet before that.
	closedMax = 256
	// readyMax is how many descriptors with events one turn looks after.
	readyMax = 512
	// inboxBytes is how much is read from one client in a turn, as gnet does.
	inboxBytes = 65536
	// lullBatchMax is how many requests and replies make a turn after which more will have come.
	lullBatchMax = 8

	// napPerWaiting is the length of a nap for each request that waits for a thread.
	napPerWaiting = 25 * time.Microsecond
	napMax        = time.Millisecond
	// napLanesMax is how many workers a loop that naps may have.
	napLanesMax = 64
)

// takeTurns serves until gnet has something to do. It is called after the flush, in the midst of
// gnet's batch: of its other events the descriptor still tells, of its tasks it does not.
func (l *loop) takeTurns() {
	if l.turns.poller < 0 {
		return
	}
	l.turns.running = true
	defer l.endTurns()
	for range turnsMax {
		if l.tasks.Load() > 0 || len(l.closed[0]) > closedMax || !l.turn() {
			return
		}
	}
}

// endTurns leaves what is still to do to the flush after gnet's next batch.
func (l *loop) endTurns() {
	l.turns.running = false
	if l.flushComing {
		signalEvent(l.self)
	} else if len(l.corked) > 0 {
		l.flushSoon() // it looks after them
	}
}

// turn waits, takes what has come, and flushes. False when gnet shall go on.
func (l *loop) turn() (mine bool) {
	mine, patience := true, lullMax
	if l.flushComing {
		patience = 0
	} else if nap := l.napTime(); nap > 0 && l.handled <= lullBatchMax {
		mine, patience = l.nap(nap), 0
	}
	l.handled = 0
	n := l.turns.wait(patience)
	for _, fd := range l.turns.fds[:n] {
		mine = l.event(fd) && mine
	}
	switch {
	case n > 0 || patience == 0:
		l.flush()
	case len(l.corked) > 0: // nothing came in a lull: the next answer takes its time
		l.uncorkAll()
	default:
		return false
	}
	return mine
}

// wait waits for events, at most so long, and puts their descriptors into fds.
func (t *turns) wait(patience time.Duration) int {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(t.poller),
		uintptr(unsafe.Pointer(&t.ready)), readyMax, uintptr(patience/time.Millisecond), 0, 0)
	if errno != 0 {
		return 0
	}
	for i := range t.ready[:n] {
		t.fds[i] = watchedFD(&t.ready[i])
	}
	return int(n)
}

// event takes what has come by a descriptor. False when that is gnet's.
func (l *loop) event(fd int) (mine bool) {
	if fd == l.turns.tasks {
		signalEvent(fd) // gnet would not see it again
		return false
	}
	var owner any
	if fd < len(l.owners) {
		owner = l.owners[fd]
	}
	switch owner := owner.(type) {
	case *client:
		return l.hear(owner)
	case *lane:
		return slices.Contains(l.lanes, owner) && l.answerDoorbell(owner) // else it is new
	}
	return owner == nil // it was closed in this turn
}

// hear reads from a client. False when it has ended.
func (l *loop) hear(c *client) (mine bool) {
	defer l.recover(c)
	inbox := &l.turns.inbox
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(c.fd),
		uintptr(unsafe.Pointer(inbox)), inboxBytes, unix.MSG_DONTWAIT, 0, 0)
	switch {
	case errno == unix.EAGAIN || errno == unix.EINTR:
		return true
	case errno != 0:
		l.drop(c)
		return true
	case n == 0:
		return false
	}
	l.received(c, inbox[:n])
	return true
}

// answerDoorbell takes the replies of a worker that has rung. False when it has ended.
func (l *loop) answerDoorbell(ln *lane) (mine bool) {
	defer l.recover(nil)
	mine = ln.bridge.Silence()
	l.takeReplies(ln)
	return mine
}

// napTime is how long the loop may look away: 0 when a worker has a thread free, or none is there.
func (l *loop) napTime() time.Duration {
	if len(l.lanes) > napLanesMax {
		return 0
	}
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
// False when one has ended.
func (l *loop) nap(d time.Duration) (mine bool) {
	var doorbells [napLanesMax]unix.PollFd
	awake := false
	for i, ln := range l.lanes {
		doorbells[i] = unix.PollFd{Fd: int32(ln.bridge.DoorbellFD()), Events: unix.POLLIN}
		awake = awake || !ln.bridge.Nap()
	}
	if !awake {
		limit := unix.NsecToTimespec(int64(d))
		_, _, _ = unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&doorbells)),
			uintptr(len(l.lanes)), uintptr(unsafe.Pointer(&limit)), 0, 0, 0)
	}
	mine = true
	for _, ln := range l.lanes {
		mine = (!ln.bridge.Rung() || ln.bridge.Silence()) && mine
	}
	l.takeAllReplies()
	return mine
}

// find finds gnet's descriptors: its epoll descriptor is the one that watches fd, and the only
// other one that it watches now is its eventfd (proc_pid_fdinfo(5)).
func (t *turns) find(fd int) {
	all, _ := filepath.Glob("/proc/self/fdinfo/*")
	for _, info := range all {
		watched := watchedBy(info)
		if len(watched) != 2 || watched[0] != fd && watched[1] != fd {
			continue
		}
		if poller, err := strconv.Atoi(filepath.Base(info)); err == nil {
			t.poller, t.tasks = poller, watched[0]+watched[1]-fd
		}
		return
	}
}

// watchedBy lists the descriptors that an epoll descriptor with this information watches.
func watchedBy(info string) (watched []int) {
	f, err := os.Open(info)
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 1 && fields[0] == "tfd:" {
			fd, _ := strconv.Atoi(fields[1])
			watched = append(watched, fd)
		}
	}
	return watched
}
