// Package reap buries children that nobody in this process waits for. A server that is pid 1 of
// a container, or a subreaper, inherits the orphans of everything its workers start; what is not
// waited for stays a zombie and keeps its pid for ever.
//
// The danger is to reap too much: a child that exec.Cmd waits for must be left to it, or Wait
// fails and the exit status is lost. Wrong ways: waiting for "any child" takes whoever died
// first; a list of the pids to leave alone has a gap between fork and entry in the list. So an
// unknown zombie is looked at twice, settleTime apart: whoever waits for a child has its status
// by then, and what is still there belongs to nobody.
package reap

import (
	"context"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"
)

// settleTime is how long a zombie is left to whoever may be waiting for it. A waiting thread has
// been seen to come 20 ms late on a busy machine.
const settleTime = 3 * time.Second

// strangerEvery is how often a process that is expected, but not our child yet, is looked at:
// its end elsewhere sends us no signal.
const strangerEvery = 100 * time.Millisecond

// Status says how a process ended.
type Status struct {
	Code   int            // exit status; -1 when a signal ended it
	Signal syscall.Signal // that ended it, or 0
	// Lost: it is gone, and another process has taken its status.
	Lost bool
}

// Reaper waits for children by their pid. Its methods may be called from any goroutine.
type Reaper struct {
	sys    system
	settle time.Duration
	wake   chan struct{} // a new pid is expected

	mu       sync.Mutex
	expected map[int]chan Status // under mu

	// ---- owned by Run ----
	seen map[zombie]bool // at the last sweep
}

// zombie is one dead process; its start tells it from a later one with the same pid.
type zombie struct {
	pid   int
	start uint64 // clock ticks since boot
}

// New makes a reaper that does nothing until Run.
func New() *Reaper {
	return &Reaper{sys: realSystem(), settle: settleTime, wake: make(chan struct{}, 1),
		expected: make(map[int]chan Status)}
}

// Needed reports whether this process inherits orphans: it is pid 1 or a subreaper.
func Needed() bool { return os.Getpid() == 1 || isSubreaper() }

// Adopt makes this process inherit the orphans among its descendants, from now on. Run must be
// running then.
func Adopt() error { return becomeSubreaper() }

// Expect yields, once, how the process ended. It may be a child of ours, an orphan that is about
// to become one, or have ended already as long as nobody has waited for it. A pid is expected by
// one caller at a time, and not also waited for by exec.Cmd. Nothing comes before Run.
func (r *Reaper) Expect(pid int) <-chan Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	ended, known := r.expected[pid]
	if !known {
		ended = make(chan Status, 1)
		r.expected[pid] = ended
	}
	select {
	case r.wake <- struct{}{}:
	default:
	}
	return ended
}

// Run reaps until ctx ends. It is called once.
func (r *Reaper) Run(ctx context.Context) {
	deaths := make(chan os.Signal, 1) // one is enough: every look takes all
	signal.Notify(deaths, syscall.SIGCHLD)
	defer signal.Stop(deaths)
	sweep := time.NewTimer(0) // some may have died before
	defer sweep.Stop()
	sweeping := true
	look := time.NewTimer(time.Hour)
	defer look.Stop()
	for {
		if r.collect() {
			look.Reset(strangerEvery)
		} else {
			look.Stop()
		}
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		case <-look.C:
		case <-deaths:
			if !sweeping {
				sweeping = true
				sweep.Reset(r.settle)
			}
		case <-sweep.C:
			if sweeping = r.sweep(); sweeping {
				sweep.Reset(r.settle)
			}
		}
	}
}

// collect delivers the expected that have ended. It reports whether one of the others is not our
// child, so that no signal will tell of it.
func (r *Reaper) collect() (strangers bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for pid, ended := range r.expected {
		switch status, found := r.sys.wait(pid); found {
		case hasEnded:
			ended <- status
			delete(r.expected, pid)
		case isStranger:
			if r.sys.exists(pid) {
				strangers = true
				continue
			}
			ended <- Status{Code: -1, Lost: true}
			delete(r.expected, pid)
		}
	}
	return strangers
}

// sweep reaps what it has seen at the last sweep already, and remembers the others. It reports
// whether there are any.
func (r *Reaper) sweep() (more bool) {
	before := r.seen
	r.seen = make(map[zombie]bool)
	first := r.sys.peek()
	if first == 0 {
		return false
	}
	all := r.sys.zombies()
	if !slices.ContainsFunc(all, func(z zombie) bool { return z.pid == first }) {
		all = append(all, zombie{pid: first}) // one at a time is better than none
	}
	for _, z := range all {
		switch {
		case r.isExpected(z.pid):
		case before[z]:
			r.sys.wait(z.pid)
		default:
			r.seen[z] = true
		}
	}
	return len(r.seen) > 0
}

func (r *Reaper) isExpected(pid int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, expected := r.expected[pid]
	return expected
}
