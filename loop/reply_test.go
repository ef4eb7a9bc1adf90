package loop

import "testing"

// A worker does not sleep until all it has answered is delivered: requests that were pipelined
// behind wake it on the way.
func TestPipelinedRequestsWakeTheWorker(t *testing.T) {
	t.Parallel()
	g := newRig(t, nil)
	g.threads = ringAhead
	w := g.worker()
	var all []*peer
	for range ringAhead {
		p := g.dial()
		p.send(get("/first"), get("/second"))
		all = append(all, p)
	}
	g.inFlight(w, ringAhead)
	l := g.loop()
	g.on(l, func() {
		for range all {
			g.take(w).Answer(ok("first"))
		}
		ln := l.lanes[0]
		l.takeReplies(ln)
		if ln.inFlight != ringAhead || ln.unrung != 0 {
			t.Errorf("behind the replies: got %d requests in slots, %d of them not rung for, want %d and 0",
				ln.inFlight, ln.unrung, ringAhead)
		}
	})
	g.serve(w, nil)
	for _, p := range all {
		p.want(200, "first")
		p.want(200, "/second")
	}
}
