package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"gophersnake/loop"
	"gophersnake/server/internal/config"
	"gophersnake/server/internal/control"
	"gophersnake/server/internal/host"
	"gophersnake/server/internal/listen"
	"gophersnake/server/internal/supervise"
)

const (
	meterEvery = 2 * time.Second
	retryEvery = 1 * time.Second // for a socket that another server still has
	drainEvery = 20 * time.Millisecond

	stateReady = "ready" // of supervise.WorkerInfo: it takes requests
)

var (
	errNotYet = errors.New("the server has not started yet")
	errOver   = errors.New("the server has ended already")
	errShut   = errors.New("this server was drained: it accepts no clients any more")
)

// controls is the server as its control socket sees it. Of the service it reads only what does not
// change once the workers are started; the rest of its fields are its own.
type controls struct {
	s     *service
	meter *control.Meter

	ending  atomic.Bool  // the server stops
	drained atomic.Bool  // by ctl: it accepts no clients any more
	died    atomic.Int64 // workers that ended by themselves, or had to be killed

	gilBack atomic.Int64 // the generation that has turned the GIL on; 0: none

	mu         sync.Mutex
	lastReload *control.Reload // under mu

	cancel context.CancelFunc
	closed chan struct{} // when the goroutine that has the socket has ended
	over   chan struct{} // closed when how is known
	how    error         // what the end of the server was like
}

func newControls(s *service) *controls {
	return &controls{s: s, meter: control.NewMeter(), cancel: func() {},
		over: make(chan struct{})}
}

// start opens the socket and keeps it until end. Without one the server works all the same.
func (c *controls) start() {
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel, c.closed = cancel, make(chan struct{})
	path := c.path()
	server := c.open(path, true)
	go c.keep(ctx, path, server)
}

// end tells those who wait for the server's end how it was, and takes the socket away.
func (c *controls) end(how error) {
	c.ending.Store(true)
	c.how = how
	close(c.over)
	c.cancel()
	if c.closed != nil {
		<-c.closed
	}
}

// path is where the socket belongs; empty: nowhere.
func (c *controls) path() string {
	path := c.s.config.ControlSocket
	if path == config.Off || path == "" && c.s.sockets == nil {
		return ""
	}
	if path != "" {
		return path
	}
	dir, err := resolved(c.s.dir)
	startedIn := dir
	if err == nil && c.s.startedIn != "" {
		startedIn, err = resolved(c.s.startedIn)
	}
	if err == nil {
		path, err = c.s.sockets(c.s.getenv).Path(dir, startedIn, os.Getpid())
	}
	if err != nil {
		c.s.log.Warn("no control socket: gophersnake ctl cannot reach this server", "error", err)
	}
	return path
}

// open returns nil when there is no socket to be had.
func (c *controls) open(path string, first bool) *control.Server {
	if path == "" {
		return nil
	}
	socket, err := control.Open(path)
	if err == nil {
		c.s.log.Debug("control socket", "path", path)
		return control.Serve(socket, c, c.s.log)
	}
	// In an upgrade the old server has it, as is to be expected.
	expected := errors.Is(err, control.ErrInUse) && c.s.upgrade.tenure == following
	if first && !expected {
		c.s.log.Warn("going on without a control socket", "error", err)
	}
	return nil
}

// keep owns the socket. One that another server has is taken over when that one ends: after an
// upgrade, the new server comes to it like that.
func (c *controls) keep(ctx context.Context, path string, server *control.Server) {
	defer close(c.closed)
	retry, meter := time.NewTicker(retryEvery), time.NewTicker(meterEvery)
	defer retry.Stop()
	defer meter.Stop()
	if server != nil || path == "" {
		retry.Stop()
	}
	for {
		select {
		case <-ctx.Done():
			if server != nil {
				_ = server.Close() // a socket that cannot be closed has nobody left
			}
			return
		case <-retry.C:
			if server = c.open(path, false); server != nil {
				c.s.log.Info("control socket", "path", path)
				retry.Stop()
			}
		case <-meter.C:
			c.read(c.s.supervisor.Snapshot())
		}
	}
}

// read takes a reading of how busy the workers are.
func (c *controls) read(workers []supervise.WorkerInfo) {
	stats := c.s.engine.Stats()
	byID := byWorker(stats)
	all := make([]control.Busy, 0, len(workers))
	for _, w := range workers {
		k := byID[w.ID]
		all = append(all, control.Busy{PID: w.PID,
			Threads: int(min(k.InFlight, int64(c.s.config.Threads)))})
	}
	c.meter.Read(time.Now(), all)
}

// startWorker is supervise.Env.Start: it watches how workers end.
func (c *controls) startWorker(id, generation int) (supervise.Worker, error) {
	w, err := c.s.engine.Start(id, generation)
	if err == nil {
		go c.watch(w, generation)
	}
	return w, err
}

func (c *controls) watch(w supervise.Worker, generation int) {
	select {
	case <-w.Ready():
		c.checkGIL(w, generation)
	case <-w.Done():
	}
	<-w.Done()
	if exit := w.Exit(); exit != (supervise.Exit{}) && !c.ending.Load() {
		c.died.Add(1)
	}
}

// checkGIL warns once a generation: a free-threaded Python turns the GIL on for good when an
// extension is imported that does not say it can do without (PEP 703), and its threads then run
// one at a time.
func (c *controls) checkGIL(w supervise.Worker, generation int) {
	k, tells := w.(interface{ GILBack() bool })
	if !tells || !k.GILBack() || c.gilBack.Swap(int64(generation)) == int64(generation) {
		return
	}
	c.s.log.Warn("the app's import has turned the GIL on: threads of a worker run one at a time; "+
		"Python's own warning names the extension, PYTHON_GIL=0 keeps the GIL off",
		"generation", generation)
}

// Status implements control.Target.
func (c *controls) Status(context.Context) (control.Status, error) {
	s := c.s
	stats := s.engine.Stats()
	workers := s.supervisor.Snapshot()
	c.read(workers)
	status := control.Status{
		Version: version, PID: os.Getpid(), State: c.state(), Uptime: time.Since(s.began).Seconds(),
		App: s.app.label(), Dir: s.dir, Python: s.python.String(),
		Wanted: s.supervisor.Size(), Threads: s.config.Threads, Loops: s.config.Loops,
		Restarts: int(c.died.Load()), Clients: stats.Clients, InFlight: stats.InFlight,
		Queue: control.Queue{Depth: stats.Waiting, Max: int64(s.config.Limits.QueueMax),
			P50: milliseconds(stats.Recent.Quantile(0.5)),
			P99: milliseconds(stats.Recent.Quantile(0.99))},
		Unavailable: map[string]int64{}, Stolen: stats.Stolen, Moved: stats.Moved,
		Panics: stats.Panics, Corrupt: stats.Corrupt,
	}
	for _, l := range s.listeners {
		status.Listeners = append(status.Listeners, listen.URL(l))
	}
	for class, n := range stats.Answers {
		status.Classes[class] = int64(n)
		status.Served += n
	}
	for reason, n := range stats.Unavailable {
		if n > 0 {
			status.Unavailable[reason] = int64(n)
		}
	}
	for _, w := range workers {
		if w.State == stateReady {
			status.Workers++
			status.Generation = max(status.Generation, w.Generation)
		}
	}
	status.GIL = c.gil(status.Generation)
	c.mu.Lock()
	status.LastReload = c.lastReload
	c.mu.Unlock()
	status.Advice = control.Advise(c.load(workers, status))
	return status, nil
}

// load is what advice is made of.
func (c *controls) load(workers []supervise.WorkerInfo, status control.Status) control.Load {
	load := control.Load{Threads: c.s.config.Threads, CPUs: host.CPUs(), GIL: status.GIL != gilOff,
		Queued: status.Queue.P99 >= control.QueuedMin}
	for _, w := range workers {
		cpus, busy, known := c.meter.Means(w.PID)
		if known && w.State == stateReady {
			load.Workers++
			load.CPU += cpus
			load.Busy += busy
		}
	}
	if load.Workers > 0 {
		load.CPU /= float64(load.Workers)
		load.Busy /= float64(load.Workers)
	}
	return load
}

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1000 }

func (c *controls) state() string {
	switch {
	case c.ending.Load():
		return control.StateStopping
	case c.drained.Load():
		return control.StateDraining
	case !c.s.open.Load():
		return control.StateStarting
	}
	return control.StateServing
}

const (
	gilOff  = "off"
	gilOn   = "on"
	gilBack = "on: an extension of the app does not know free threading"
)

func (c *controls) gil(generation int) string {
	switch python := c.s.python; {
	case !python.FreeThreaded || python.GIL:
		return gilOn
	case c.gilBack.Load() == int64(generation):
		return gilBack
	}
	return gilOff
}

// Workers implements control.Target.
func (c *controls) Workers(context.Context) ([]control.Worker, error) {
	workers := c.s.supervisor.Snapshot()
	c.read(workers)
	stats := byWorker(c.s.engine.Stats())
	all := make([]control.Worker, 0, len(workers))
	for _, w := range workers {
		all = append(all, control.Worker{
			ID: w.ID, PID: w.PID, Generation: w.Generation, State: w.State, Leaving: w.Why,
			Age: time.Since(w.Started).Seconds(), Served: stats[w.ID].Served,
			InFlight: stats[w.ID].InFlight, Usage: c.meter.UsageOf(w.PID),
		})
	}
	return all, nil
}

// Threads implements control.Target.
func (c *controls) Threads(context.Context) (control.Threads, error) {
	answer := control.Threads{Workers: []control.WorkerThreads{}, Queue: []control.RunningRequest{}}
	place := map[int]int{} // of a worker in the answer
	for _, w := range c.s.supervisor.Snapshot() {
		place[w.ID] = len(answer.Workers)
		answer.Workers = append(answer.Workers, control.WorkerThreads{ID: w.ID, PID: w.PID,
			Generation: w.Generation, Threads: c.s.config.Threads,
			Running: []control.RunningRequest{}, Waiting: []control.RunningRequest{}})
	}
	for _, r := range c.s.engine.Requests() {
		shown := control.RunningRequest{Thread: r.Thread + 1, Method: r.Method, Target: r.Path,
			Seconds: r.Age.Seconds(), State: r.State.String()}
		at, known := place[r.Worker]
		switch {
		case r.State == loop.RequestQueued:
			answer.Queue = append(answer.Queue, shown)
		case !known: // it has ended since
		case r.State == loop.RequestWaiting:
			answer.Workers[at].Waiting = append(answer.Workers[at].Waiting, shown)
		default:
			answer.Workers[at].Running = append(answer.Workers[at].Running, shown)
		}
	}
	return answer, nil
}

// Stacks implements control.Target.
func (c *controls) Stacks(ctx context.Context, worker int) ([]control.Stack, error) {
	var all []control.Stack
	var asked sync.WaitGroup
	for _, w := range c.s.supervisor.Snapshot() {
		if worker == 0 || worker == w.ID {
			all = append(all, control.Stack{ID: w.ID, PID: w.PID})
		}
	}
	if worker != 0 && len(all) == 0 {
		return nil, fmt.Errorf("there is no worker %d", worker)
	}
	for i := range all {
		asked.Add(1)
		go func() {
			defer asked.Done()
			text, err := c.s.engine.Stacks(ctx, all[i].ID)
			all[i].Text = text
			if err != nil {
				all[i].Error = err.Error()
			}
		}()
	}
	asked.Wait()
	return all, nil
}

// Reload implements control.Target. What SIGHUP asks for comes by here too. Whoever asked may go
// away, and the next one to ask is told how it went.
func (c *controls) Reload(ctx context.Context) error {
	ended := make(chan error, 1)
	go func() { ended <- c.reload() }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (c *controls) reload() error {
	began := time.Now()
	err := c.s.supervisor.Reload(context.Background())
	result := &control.Reload{At: time.Now(), Took: time.Since(began).Seconds()}
	if err != nil {
		result.Why = err.Error()
	}
	c.mu.Lock()
	c.lastReload = result
	c.mu.Unlock()
	return err
}

// Scale implements control.Target.
func (c *controls) Scale(_ context.Context, workers int) error {
	return c.s.supervisor.Scale(workers)
}

// askedFor is why a worker is recycled, as the log and the list of workers say it.
const askedFor = "asked for by ctl"

// Recycle implements control.Target.
func (c *controls) Recycle(ctx context.Context, worker int) error {
	if worker != 0 {
		return c.s.supervisor.Recycle(worker, askedFor)
	}
	for _, w := range c.s.supervisor.Snapshot() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if w.State != stateReady {
			continue
		}
		err := c.s.supervisor.Recycle(w.ID, askedFor)
		if err != nil && !errors.Is(err, supervise.ErrNoWorker) { // it has gone meanwhile
			return err
		}
	}
	return nil
}

// Drain implements control.Target.
func (c *controls) Drain(ctx context.Context, exit bool) error {
	if !exit {
		return c.drain(ctx)
	}
	if err := c.s.stopItself(); err != nil {
		return err
	}
	select {
	case <-c.over:
		return c.how
	case <-ctx.Done():
		return fmt.Errorf("the server still stops: %w", context.Cause(ctx))
	}
}

// drain closes the doors and waits for the answers that are owed.
func (c *controls) drain(ctx context.Context) error {
	switch {
	case c.ending.Load():
		return errOver
	case !c.s.open.Load():
		return errNotYet
	}
	shut := make(chan struct{})
	if !c.s.upgrade.report(func() bool { defer close(shut); return c.s.closeDoors() }) {
		return errOver
	}
	<-shut
	check := time.NewTicker(drainEvery)
	defer check.Stop()
	for {
		stats := c.s.engine.Stats()
		if stats.Clients <= stats.Lingering && stats.InFlight == 0 {
			return nil
		}
		select {
		case <-check.C:
		case <-c.over:
			return c.how
		case <-ctx.Done():
			return fmt.Errorf("%d clients still wait for an answer", stats.Clients)
		}
	}
}

func byWorker(stats loop.Stats) map[int]loop.WorkerStats {
	all := make(map[int]loop.WorkerStats, len(stats.Workers))
	for _, w := range stats.Workers {
		all[w.ID] = w
	}
	return all
}
