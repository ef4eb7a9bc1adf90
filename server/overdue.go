package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"gophersnake/loop"
	"gophersnake/server/internal/logs"
)

const (
	// hungAfter is how long the thread of a request that missed its deadline has to come free.
	hungAfter = 5 * time.Second

	// placeEvery is how often slow requests show their stacks that are slow at the same place of
	// the app's code; at most placesMax places are known apart.
	placeEvery = 10 * time.Second
	placesMax  = 1024

	// freshSlow and freshLate are how old stacks may be to be shown once more: requests that are
	// slow together, or late together, do not each stop their worker to be looked at.
	freshSlow = time.Second
	freshLate = 200 * time.Millisecond // two ticks of the reactor's clock

	// othersEvery is how often the log shows what the other threads of a worker do: with hundreds
	// of threads that hang at one time, each entry would repeat them all.
	othersEvery = time.Second

	// probeEvery is how often a worker that has requests is asked whether the GIL can be had.
	probeEvery = time.Second
)

// suspect is a worker as the watch sees it.
type suspect interface {
	Stacks(ctx context.Context) (string, error)
	Interrupt(lane int, slot, generation uint32)
	Probe() time.Duration
}

// watch decides what becomes of requests and workers that take too long: what the log shows,
// which threads are interrupted, which workers retire. A worker whose GIL nobody gets runs no
// Python, so it misses deadlines even where no request has one; it retires after --timeout, and
// not earlier, since a request may keep the GIL for as long as it may run.
type watch struct {
	log           *slog.Logger
	slow, timeout time.Duration // --slow-request, --timeout; 0: off
	threads       int           // of each worker
	retire        func(worker int, why string)
	suspects      suspects // set by begin

	ended context.Context // by end, which close calls
	end   context.CancelFunc
	mu    sync.Mutex // over the rest
	tasks sync.WaitGroup
	over  bool
	// places are where slow requests were slow lately; dumps the last stacks of each worker.
	places map[string]*place
	dumps  map[int]*dump
}

// place is a line of an app's code.
type place struct {
	shown time.Time
	more  int // slow requests there since then
}

// dump is what the stacks of one worker were.
type dump struct {
	mu   sync.Mutex // over at and text; held while they are fetched
	at   time.Time
	text string

	shown time.Time // under the watch's mu: when the log last had those of all threads
}

// suspects are the workers that serve.
type suspects interface {
	suspect(id int) suspect // nil when it has gone
	Stats() loop.Stats
}

func (e *joined) suspect(id int) suspect {
	if w := e.workers.find(id); w != nil {
		return w
	}
	return nil
}

func newWatch(spec engineSpec) *watch {
	c := spec.config
	ended, end := context.WithCancel(context.Background())
	return &watch{log: spec.log, slow: c.SlowRequest, timeout: c.Timeout, threads: c.Threads,
		retire: spec.retire, ended: ended, end: end, places: make(map[string]*place),
		dumps: make(map[int]*dump)}
}

// begin starts to probe workers, until close. Nothing is overdue before.
func (w *watch) begin(s suspects) {
	w.suspects = s
	w.tasks.Add(1)
	go w.probe()
}

// Close ends the watch, then the reactor and the templates.
func (e *joined) Close(ctx context.Context) error {
	e.watch.close()
	if e.templates != nil {
		defer e.templates.close(ctx)
	}
	return e.Reactor.Close(ctx)
}

// close returns when nothing of the watch runs any more; what is reported later is dropped.
func (w *watch) close() {
	w.mu.Lock()
	w.over = true
	w.mu.Unlock()
	w.end()
	w.tasks.Wait()
}

// overdue takes a report of the reactor. It does not block. There are at most three for each slot
// of a worker at a time, and each is done with in seconds.
func (w *watch) overdue(o loop.Overdue) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return
	}
	w.tasks.Add(1)
	go func() {
		defer w.tasks.Done()
		w.handle(o)
	}()
}

func (w *watch) handle(o loop.Overdue) {
	id := o.Worker.ID()
	s := w.suspects.suspect(id)
	if s == nil { // it has died meanwhile
		return
	}
	switch o.Lateness {
	case loop.Slow:
		text := w.stacks(id, s, freshSlow)
		if more, show := w.mayShow(placeOf(text, w.thread(o))); show {
			w.log.Warn("slow request", w.describe(o, text, more)...)
		}
	case loop.Late:
		text := w.stacks(id, s, freshLate) // before the interruption changes them
		w.log.Warn("no answer within --timeout", w.describe(o, text, 0)...)
		s.Interrupt(o.Lane, o.Slot, o.Generation)
	case loop.Hung:
		w.retire(id, fmt.Sprintf("%s still busy %v after --timeout: %s %s", w.thread(o),
			hungAfter, o.Method, o.Path))
	}
}

// thread is the name of the thread that runs a request.
func (w *watch) thread(o loop.Overdue) string {
	if w.threads == 1 {
		return "MainThread"
	}
	return fmt.Sprintf("gophersnake-%d", o.Thread+1)
}

// describe is what the log says of a request, its own stack first; more: of its kind, not shown.
func (w *watch) describe(o loop.Overdue, stacks string, more int) []any {
	all := []any{
		"request", o.Method + " " + o.Path, "client", o.Client, "worker", o.Worker.ID(),
		"thread", w.thread(o), "queue", o.Queue.Round(time.Millisecond),
		"gil", o.GIL.Round(time.Millisecond), "app", o.App.Round(time.Millisecond),
	}
	if more > 0 {
		all = append(all, "more_there_since", more)
	}
	own, others := split(stacks, w.thread(o))
	if own != "" && !w.mayShowOthers(o.Worker.ID()) {
		others = "Others: in an entry of the last second"
	}
	return append(all, "stacks", logs.Block(join(own, others)))
}

// stacks are a worker's, not older than that; or why there are none.
func (w *watch) stacks(id int, s suspect, fresh time.Duration) string {
	w.mu.Lock()
	d := w.dumpOf(id)
	w.mu.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	if time.Since(d.at) > fresh {
		text, err := s.Stacks(w.ended)
		if err != nil {
			text = err.Error()
		}
		d.at, d.text = time.Now(), text
	}
	return d.text
}

// dumpOf finds what is known of a worker. The caller holds mu.
func (w *watch) dumpOf(id int) *dump {
	d := w.dumps[id]
	if d == nil {
		d = &dump{}
		w.dumps[id] = d
	}
	return d
}

func (w *watch) mayShowOthers(id int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	d, now := w.dumpOf(id), time.Now()
	if now.Sub(d.shown) < othersEvery {
		return false
	}
	d.shown = now
	return true
}

// mayShow says whether a slow request at this place shows its stacks, and how many did not since
// the last one that did.
func (w *watch) mayShow(at string) (more int, show bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if len(w.places) >= placesMax {
		for name, p := range w.places {
			if now.Sub(p.shown) >= placeEvery {
				delete(w.places, name)
			}
		}
	}
	p := w.places[at]
	switch {
	case p == nil && len(w.places) >= placesMax:
		return 0, false
	case p == nil:
		w.places[at] = &place{shown: now}
		return 0, true
	case now.Sub(p.shown) < placeEvery:
		p.more++
		return 0, false
	}
	more, p.shown, p.more = p.more, now, 0
	return more, true
}

// stuck is what was done about a worker whose GIL nobody gets.
type stuck struct{ shown, retired bool }

// probe asks the workers that have requests for a sign of life.
func (w *watch) probe() {
	defer w.tasks.Done()
	known := make(map[int]*stuck)
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		select {
		case <-w.ended.Done():
			return
		case <-tick.C:
		}
		alive := make(map[int]bool)
		for _, stats := range w.suspects.Stats().Workers {
			alive[stats.ID] = true
			if s := w.suspects.suspect(stats.ID); s != nil && stats.InFlight > 0 {
				w.judge(stats.ID, s, known)
			}
		}
		w.forget(alive, known)
	}
}

// judge asks one worker and acts on what it owes.
func (w *watch) judge(id int, s suspect, known map[int]*stuck) {
	waited := s.Probe()
	k := known[id]
	switch {
	case waited == 0:
		delete(known, id)
		return
	case k == nil:
		k = &stuck{}
		known[id] = k
	}
	if w.slow > 0 && waited >= w.slow && !k.shown {
		k.shown = true
		w.log.Warn("no thread of a worker gets the GIL", "worker", id,
			"for", waited.Round(time.Second), "stacks", logs.Block(w.stacks(id, s, freshSlow)))
	}
	if w.timeout > 0 && waited >= w.timeout && !k.retired {
		k.retired = true
		w.retire(id, fmt.Sprintf("no thread has got the GIL for %v", waited.Round(time.Second)))
	}
}

// forget drops what is known of workers that have gone.
func (w *watch) forget(alive map[int]bool, known map[int]*stuck) {
	for id := range known {
		if !alive[id] {
			delete(known, id)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for id := range w.dumps {
		if !alive[id] {
			delete(w.dumps, id)
		}
	}
}

// split parts stacks into the one of a thread and the others.
func split(stacks, thread string) (own, others string) {
	title := "Thread " + thread
	for block := range blocks(stacks) {
		rest, is := strings.CutPrefix(block, title)
		if is && (strings.HasPrefix(rest, ",") || strings.HasPrefix(rest, ":")) {
			own = block
		} else {
			others = join(others, block)
		}
	}
	return own, others
}

// blocks yields what Worker.Stacks says of each thread.
func blocks(stacks string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for stacks != "" {
			block := stacks
			if i := strings.Index(stacks, "\nThread "); i >= 0 {
				block, stacks = stacks[:i], stacks[i+1:]
			} else {
				stacks = ""
			}
			if !yield(block) {
				return
			}
		}
	}
}

func join(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "\n" + b
}

// placeOf is the line of code where a thread is: the last call in a file of the app's own, or of
// any when there is none.
func placeOf(stacks, thread string) string {
	own, _ := split(stacks, thread)
	first := ""
	for line := range strings.Lines(own) {
		if !strings.HasPrefix(line, "  File ") {
			continue
		}
		if first == "" {
			first = line
		}
		installed := strings.Contains(line, "/site-packages/") ||
			strings.Contains(line, "/dist-packages/") || strings.Contains(line, "/lib/python3")
		if !installed {
			return line
		}
	}
	return first
}
