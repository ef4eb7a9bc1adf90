package main

import (
	"context"
	"errors"
	"log/slog"
	"sync"

	"gophersnake/pybridge"
)

// errEnding says that no template can be started any more.
var errEnding = errors.New("the server is ending")

// templates makes the workers of --preload: a template of each generation imports the app and
// forks them.
type templates struct {
	config *pybridge.Config
	log    *slog.Logger
	line   func(generation int, line []byte) // takes a line of a template's output

	mu    sync.Mutex // over the rest
	of    map[int]*pybridge.Template
	lives sync.WaitGroup // of all templates; nothing is added once over
	over  bool
}

func newTemplates(spec engineSpec, config *pybridge.Config) *templates {
	return &templates{config: config, log: spec.log, line: spec.templateLine,
		of: make(map[int]*pybridge.Template)}
}

// start makes a worker. The first one of a generation starts its template, and so does the first
// one after the template has died: the log has told that then.
func (ts *templates) start(id, generation int) (*pybridge.Worker, error) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if ts.over {
		return nil, errEnding
	}
	t := ts.of[generation]
	if t == nil {
		var err error
		t, err = pybridge.StartTemplate(ts.config, func(l []byte) { ts.line(generation, l) })
		if err != nil {
			return nil, err
		}
		ts.log.Debug("template started", "generation", generation, "pid", t.PID())
		ts.of[generation] = t
		ts.lives.Add(1)
		go ts.watch(t, generation)
	}
	return t.Start(id)
}

// watch tells of a template that ends by itself. What an app that cannot be imported has said is
// told by the worker that waited for it.
func (ts *templates) watch(t *pybridge.Template, generation int) {
	defer ts.lives.Done()
	<-t.Done()
	ts.mu.Lock()
	unexpected := ts.of[generation] == t
	if unexpected {
		delete(ts.of, generation)
	}
	ts.mu.Unlock()
	exit := t.Exit()
	if unexpected && !exit.ImportFailed {
		ts.log.Error("the template ended; its workers live on, the next comes from a new one",
			"generation", generation, "pid", t.PID(), "reason", exitOf(exit).String())
	}
}

// retire ends the template of a generation that needs no more workers.
func (ts *templates) retire(generation int) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if t := ts.of[generation]; t != nil {
		delete(ts.of, generation)
		t.End()
	}
}

// close ends all templates. It returns when they are gone, or with ctx.
func (ts *templates) close(ctx context.Context) {
	ts.mu.Lock()
	ts.over = true
	for generation, t := range ts.of {
		delete(ts.of, generation)
		t.End()
	}
	ts.mu.Unlock()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		ts.lives.Wait() // not for long: End kills
	}()
	select {
	case <-gone:
	case <-ctx.Done():
	}
}

// Retired is told of a generation that has no worker and gets no more.
func (e *joined) Retired(generation int) {
	if e.templates != nil {
		e.templates.retire(generation)
	}
}

// templateLine logs what a template says, as workerLine does.
func (s *service) templateLine(generation int, line []byte) {
	if s.open.Load() {
		s.console.TemplateLine(generation, line)
	} else {
		s.console.PlainLine(line)
	}
}
