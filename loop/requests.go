package loop

import (
	"bytes"
	"slices"
	"strings"
	"time"
)

const (
	// requestsListMax is how many requests one loop lists.
	requestsListMax = 4096

	// requestLineShownMax is how many bytes of a request's first line are looked at to show it.
	requestLineShownMax = 512

	// requestsWaitMax is how long a loop may take to list its requests; a loop that is stuck is
	// left out.
	requestsWaitMax = time.Second
)

// RequestState is where a request is.
type RequestState uint8

const (
	RequestQueued    RequestState = iota // in the queue, for any worker
	RequestWaiting                       // in a worker's slot, for one of its threads
	RequestRunning                       // a thread has it
	RequestAnswering                     // and has begun to answer
	RequestAbandoned                     // a thread runs it, its client has gone
)

func (s RequestState) String() string {
	return [...]string{"queued", "waiting", "running", "answering", "abandoned"}[s]
}

// RunningRequest is a request that waits or runs, without anything of it that could be secret.
type RunningRequest struct {
	Worker int    // its number; 0 in the queue
	Loop   int    // whose lane it is in
	Slot   int    // in that lane; -1 in the queue
	Thread int    // of the worker, from 0; -1 when no thread has it
	Method string // "" when the worker has written over it
	Path   string // the request target up to its query, as it was sent
	Client string // address; "" when it has gone
	Age    time.Duration
	State  RequestState
}

// Requests lists what waits and runs now, oldest first. Each loop lists its own, in its turn: at
// most 4,096, and none when it does not come to it within a second. Any goroutine but a loop may
// call it.
func (r *Reactor) Requests() []RunningRequest {
	lists := make(chan []RunningRequest, len(r.loops))
	for _, l := range r.loops {
		l.post(func() { lists <- l.list() })
	}
	late := time.NewTimer(requestsWaitMax)
	defer late.Stop()
	var all []RunningRequest
	for range r.loops {
		select {
		case some := <-lists:
			all = append(all, some...)
		case <-late.C:
			return sortByAge(all)
		case <-r.stopped:
			return sortByAge(all)
		}
	}
	return sortByAge(all)
}

func sortByAge(all []RunningRequest) []RunningRequest {
	slices.SortStableFunc(all, func(a, b RunningRequest) int { return int(b.Age - a.Age) })
	return all
}

// list is what the loop's lanes and queue hold.
func (l *loop) list() []RunningRequest {
	now := l.reactor.monotonic()
	var all []RunningRequest
	for c := l.queue.first; c != nil && len(all) < requestsListMax; c = c.incoming.next {
		q := RunningRequest{Loop: l.index, Slot: -1, Thread: -1, Client: c.addr,
			Age: time.Duration(now - c.since)}
		q.Method, q.Path = shownLine(c.incoming.head.B)
		all = append(all, q)
	}
	var head []byte
	for _, ln := range l.lanes {
		for slot := range ln.clients {
			if ln.down || !ln.bridge.Busy(uint32(slot)) || len(all) >= requestsListMax {
				continue
			}
			head = ln.bridge.HeadOf(uint32(slot), head[:0], requestLineShownMax)
			q := l.inSlot(ln, slot, now)
			q.Method, q.Path = shownLine(head)
			all = append(all, q)
		}
	}
	return all
}

func (l *loop) inSlot(ln *lane, slot int, now int64) RunningRequest {
	q := RunningRequest{Worker: ln.member.worker.ID(), Loop: l.index, Slot: slot, Thread: -1,
		Age: time.Duration(now - ln.placed[slot]), State: RequestWaiting}
	c := ln.clients[slot]
	if ln.bridge.Taken(uint32(slot)) {
		q.Thread, q.State = ln.bridge.Run(uint32(slot)).Thread, RequestRunning
	}
	switch {
	case c == nil:
		q.State = RequestAbandoned
	default:
		q.Client, q.Age = c.addr, time.Duration(now-c.since)
		if c.begun {
			q.State = RequestAnswering
		}
	}
	return q
}

// shownLine takes method and path out of the beginning of a head. It may be anything that a worker
// wrote: what does not look like a request line is not shown.
func shownLine(head []byte) (method, path string) {
	head = head[:min(len(head), requestLineShownMax)]
	line, _, whole := bytes.Cut(head, []byte("\r"))
	parts := strings.SplitN(string(line), " ", 3)
	if len(parts) < 2 || whole && len(parts) != 3 {
		return "", ""
	}
	path, _, _ = strings.Cut(parts[1], "?")
	if strings.ContainsFunc(parts[0]+path, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", ""
	}
	return parts[0], path
}
