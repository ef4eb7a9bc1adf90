package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"gophersnake/loop"
	"gophersnake/pybridge"
	"gophersnake/server/internal/supervise"
)

// errGone says that a worker has ended.
var errGone = errors.New("the worker has ended")

// roll finds worker processes by their number while they live.
type roll struct {
	mu   sync.Mutex // over byID
	byID map[int]*pybridge.Worker
}

func (r *roll) add(w *pybridge.Worker) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.byID[w.ID()] = w
	go func() {
		<-w.Done()
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.byID, w.ID())
	}()
}

// find returns nil when there is none.
func (r *roll) find(id int) *pybridge.Worker {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.byID[id]
}

// Stacks returns the Python stacks of a worker.
func (e *joined) Stacks(ctx context.Context, id int) (string, error) {
	w := e.workers.find(id)
	if w == nil {
		return "", errGone
	}
	return w.Stacks(ctx)
}

// Switch and what follows are supervise.Pool.
func (e *joined) Switch(in, out []supervise.Worker) (<-chan struct{}, []<-chan struct{}) {
	return e.SwitchWorkers(bridged(in), bridged(out))
}

// Remove fails what a dead worker ran.
func (e *joined) Remove(w supervise.Worker) { e.RemoveWorker(w.(worker).Worker) }

// Abort cuts off answers that have begun.
func (e *joined) Abort(w supervise.Worker) { e.AbortWorker(w.(worker).Worker) }

// Served counts the requests that a worker has finished.
func (e *joined) Served(w supervise.Worker) uint64 { return e.Reactor.Served(w.(worker).Worker) }

// NoWorkers ends by itself when the reactor gets a worker.
func (e *joined) NoWorkers(why string, until time.Time) {
	if why != "" {
		e.Reactor.NoWorkers(why, until)
	}
}

func bridged(workers []supervise.Worker) []loop.Worker {
	all := make([]loop.Worker, len(workers))
	for i, w := range workers {
		all[i] = w.(worker).Worker
	}
	return all
}

// worker is a pybridge worker as the supervisor sees it.
type worker struct{ *pybridge.Worker }

func (w worker) Exit() supervise.Exit { return exitOf(w.Worker.Exit()) }

func exitOf(x pybridge.Exit) supervise.Exit {
	return supervise.Exit{
		Code: x.Code, Signal: int(x.Signal), ImportFailed: x.ImportFailed, Reason: x.Reason,
	}
}
