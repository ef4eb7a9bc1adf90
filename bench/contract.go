package main

import (
	"context"
	"fmt"
	"time"
)

// What a load does not show. A server must call close() of what the app returned when it is done
// with it (PEP 3333, "Handling the close() method"); Django and others end a request there: they
// give back the connection to the database and tell who asked to hear of the end. A server that
// leaves it out saves all that, so with a framework it is nobody's rival.

const (
	// closedMax is how long after its answer a response may be closed.
	closedMax = time.Second

	closedPoll = 10 * time.Millisecond // between two looks
)

// checkClosing finds out which peers do not call close().
func (r *runner) checkClosing(ctx context.Context) {
	r.unclosed = map[string]bool{}
	w := workload{app: plainApp, threads: threadsDefault}
	for i := range r.peers {
		p := &r.peers[i]
		if p.fixed || r.lacking[p.name] != "" {
			continue
		}
		closes, err := r.closes(ctx, p, &w)
		switch {
		case err != nil: // its cells will say so too
			fmt.Fprintf(r.say, "%s: %v\n", p.name, err)
		case !closes:
			r.unclosed[p.name] = true
			fmt.Fprintf(r.say, "%s: never calls close() of what an app returns\n", p.name)
		}
	}
}

func (r *runner) closes(ctx context.Context, p *peer, w *workload) (bool, error) {
	s, err := newSite(r.root, p, w)
	if err != nil {
		return false, err
	}
	sv, err := launch(ctx, p, s, "")
	if err != nil {
		return false, err
	}
	defer sv.stop()
	if _, err := sv.ask(ctx, &request{method: "GET", path: "/closing"}); err != nil {
		return false, err
	}
	poll := time.NewTicker(closedPoll)
	defer poll.Stop()
	for end := time.Now().Add(closedMax); ; <-poll.C {
		got, err := sv.ask(ctx, &request{method: "GET", path: "/closed"})
		if closed := string(got.body) == "1"; err != nil || closed || time.Now().After(end) {
			return closed, err
		}
	}
}
