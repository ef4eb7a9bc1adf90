package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"gophersnake/loop"
	"gophersnake/server/internal/config"
	"gophersnake/server/internal/host"
	"gophersnake/server/internal/logs"
	"gophersnake/server/internal/python"
	"gophersnake/server/internal/reap"
	"gophersnake/server/internal/supervise"
	"gophersnake/server/internal/systemd"
)

// engine is what serving needs of the reactor and the worker processes; wire.go makes it.
type engine interface {
	supervise.Pool
	// Start makes a worker process; see supervise.Env.
	Start(id, generation int) (supervise.Worker, error)
	// Retired is told of a generation that has no worker and gets no more.
	Retired(generation int)
	// Open begins to accept clients. The listener belongs to the engine from then on.
	Open(net.Listener) error
	// CloseDoors closes the listeners; idle clients are closed, busy ones after their answer.
	CloseDoors()
	// HandOver is CloseDoors beside another server with the same listeners: clients that expect
	// to ask once more may.
	HandOver()
	// Settle returns when no client can ask any more, or ctx ends.
	Settle(ctx context.Context)
	// Alive returns when every loop has answered; an error when one has not and ctx ends.
	Alive(ctx context.Context) error
	// Close sends what is still owed until ctx ends, then ends the reactor.
	Close(ctx context.Context) error
	// Failed yields the reason when the reactor has ended by itself.
	Failed() <-chan error
	// Stacks tells what the Python threads of a worker do; it takes a while.
	Stacks(ctx context.Context, worker int) (string, error)
	// Stats counts, and Requests lists what runs and waits now.
	Stats() loop.Stats
	Requests() []loop.RunningRequest
}

// engineSpec is what an engine is made of.
type engineSpec struct {
	app    app
	dir    string // absolute; the workers' working directory
	config *config.Config
	python python.Interpreter
	log    *slog.Logger
	// listeners, open already: the workers' environ tells which one a request came by.
	listeners []net.Listener
	// workerLine takes one line of a worker's output, without its end; any goroutine may call.
	workerLine func(worker int, line []byte)
	// templateLine does so for the template of a generation (--preload).
	templateLine func(generation int, line []byte)
	// retire replaces a worker that hangs, without waiting; it is called while workers serve.
	retire func(worker int, why string)
}

// app is what is served: an APP as the user wrote it, or the one inside the binary.
type app struct {
	name    string
	builtIn bool
}

// closeMin is what the reactor gets for its last bytes when the workers have used up the time.
const closeMin = 500 * time.Millisecond

var (
	errForced   = errors.New("stopped at once, by SIGQUIT or a second SIGINT")
	errDeadline = errors.New("requests were cut off: --graceful-timeout passed while stopping")
)

// importError says what was tried. The reason is empty when the worker has already written the
// traceback to its stderr.
type importError struct {
	app, dir, python string
	reason           string
}

func (e *importError) Error() string {
	text := fmt.Sprintf("cannot import app %q (in %s with %s)", e.app, e.dir, e.python)
	if e.reason != "" {
		text += "\n" + e.reason
	}
	return text
}

// service is one run of the server. It belongs to the goroutine that calls serve.
type service struct {
	process
	app        app
	config     *config.Config
	console    *logs.Console
	log        *slog.Logger
	dir        string
	python     python.Interpreter
	listeners  []net.Listener // closed by the engine, or by serve when it comes to none
	owned      []net.Listener // of those, the ones whose socket files are ours
	engine     engine
	supervisor *supervise.Supervisor
	reaper     *reap.Reaper // it runs when this process inherits orphans
	ended      chan error   // what supervisor.Run returned
	upgrade    *upgrade
	manager    *systemd.Notifier // nil: there is none, or another process speaks to it
	unwatch    func()            // ends feedWatchdog
	began      time.Time
	open       atomic.Bool // the banner was printed; read by the workers' output goroutines

	controls  *controls
	startedIn string // the directory before --chdir
}

func newService(p process, c *config.Config, a app) *service {
	console := logs.New(p.stderr, c.LogLevel)
	if p.inherited == nil {
		p.inherited = &inheritance{}
	}
	return &service{process: p, app: a, config: c, console: console, log: slog.New(console),
		reaper: reap.New(), ended: make(chan error, 1), began: time.Now(),
		upgrade: newUpgrade(p.inherited), unwatch: func() {}}
}

// serve returns when a signal has ended the server (nil after a drain in time), or when it
// cannot go on.
func (s *service) serve() (err error) {
	s.controls = newControls(s)
	defer func() { s.controls.end(err) }() // the last of all: it says how the server ended
	// Sockets come first: whoever starts a second server by mistake hears it at once, and
	// clients that come too early wait in the kernel instead of being refused.
	if err := s.enterDir(); err != nil {
		return err
	}
	defer s.reapOrphans()()
	defer s.upgrade.others.Wait()
	defer s.upgrade.end()
	defer func() { s.unwatch() }()
	defer func() { err = errors.Join(err, s.closeListeners()) }()
	if err := s.openListeners(); err != nil {
		return err
	}
	if err := s.findPython(); err != nil {
		return err
	}
	s.engine, err = s.newEngine(engineSpec{app: s.app, dir: s.dir, config: s.config,
		python: s.python, log: s.log, listeners: s.listeners, workerLine: s.workerLine,
		templateLine: s.templateLine,
		retire:       func(id int, why string) { s.supervisor.Retire(id, why) }})
	if err != nil {
		return err
	}
	for _, note := range s.config.Notes {
		s.log.Info(note)
	}
	return s.supervise()
}

// enterDir changes the directory for the whole process, as --chdir says, before anything with a
// relative path is opened.
func (s *service) enterDir() error {
	s.startedIn, _ = os.Getwd() // it may be gone, and no more than a search depends on it
	if err := os.Chdir(s.config.Chdir); err != nil {
		return &config.Error{Setting: "--chdir", Value: s.config.Chdir,
			Advice: "cannot go there: " + rootCause(err)}
	}
	dir, err := filepath.Abs(".")
	s.dir = dir
	return err
}

func rootCause(err error) string {
	var number syscall.Errno
	if errors.As(err, &number) {
		return number.Error()
	}
	return err.Error()
}

func (s *service) findPython() error {
	system := python.System()
	system.Getenv = s.getenv
	found, err := python.Find(system, s.config.Python, s.dir)
	if err != nil {
		return &usageError{err.Error()}
	}
	s.python, err = python.Probe(context.Background(), system, found.Path)
	if err != nil {
		return &usageError{fmt.Sprintf("%v (found by %s)", err, found.From)}
	}
	return nil
}

// supervise starts the workers and handles what happens until the end.
func (s *service) supervise() error {
	s.supervisor = supervise.New(s.config.Workers, supervise.Env{
		Start: s.controls.startWorker, Retired: s.engine.Retired, Pool: s.engine,
		Log:          s.log,
		StartTimeout: s.config.StartTimeout, GracefulTimeout: s.config.GracefulTimeout,
		WorkersMax: config.WorkersMax, Recycling: supervise.Recycling(s.config.Recycling),
		Memory: host.ResidentBytes, Random: func(most int64) int64 { return rand.Int64N(most + 1) },
	})
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	go func() { s.ended <- s.supervisor.Run(ctx) }()
	s.controls.start()

	ready := s.supervisor.Ready()
	for {
		select {
		case <-ready:
			ready = nil
			if err := s.openDoors(); err != nil {
				cancel(err)
				return s.abandon(<-s.ended)
			}
		case err := <-s.ended:
			return s.abandon(err)
		case err := <-s.engine.Failed():
			cancel(fmt.Errorf("the reactor ended: %w", err))
			return s.abandon(<-s.ended)
		case happened := <-s.upgrade.events:
			if leave := happened(); leave {
				return s.drain(syscall.SIGUSR2)
			}
		case sig := <-s.signals:
			switch sig {
			case syscall.SIGTERM, syscall.SIGINT:
				return s.drain(sig)
			case syscall.SIGQUIT:
				s.dump()
				return s.drain(sig)
			default:
				s.signalled(sig)
			}
		}
	}
}

// openDoors begins to accept and says so: from now on requests are answered.
func (s *service) openDoors() error {
	for _, l := range s.listeners {
		if err := s.engine.Open(l); err != nil {
			return err
		}
	}
	s.open.Store(true)
	s.banner()
	s.opened()
	return nil
}

// workerLine logs a worker's output; until the doors open there is one worker only.
func (s *service) workerLine(worker int, line []byte) {
	if s.open.Load() {
		s.console.WorkerLine(worker, line)
	} else {
		s.console.PlainLine(line)
	}
}

// abandon ends what is left after the workers are gone and explains why.
func (s *service) abandon(why error) error {
	ctx, cancel := context.WithTimeout(context.Background(), closeMin)
	defer cancel()
	s.engine.CloseDoors()
	closed := s.engine.Close(ctx)
	var failed *supervise.ImportError
	if errors.As(why, &failed) {
		why = &importError{s.app.name, s.dir, fmt.Sprintf("%s, %v", s.python.Path, s.python),
			failed.Reason}
	}
	return errors.Join(why, closed)
}

// drain lets running requests finish within --graceful-timeout. Only a second SIGINT shortens
// it: a platform may send SIGTERM several times and to every process, a person presses Ctrl-C
// twice and means it. SIGQUIT grants no time at all.
func (s *service) drain(first os.Signal) error {
	s.controls.ending.Store(true)
	interrupts, forced, grace := 0, first == syscall.SIGQUIT, s.config.GracefulTimeout
	if first == syscall.SIGINT {
		interrupts = 1
	}
	if forced {
		grace = 0
	}
	s.log.Info("stopping: finishing running requests", "signal", first.String(),
		"at_most", grace)
	deadline := time.Now().Add(grace)
	s.upgrade.end()
	s.stopping()
	s.engine.CloseDoors()
	ctx, force := context.WithCancel(context.Background())
	defer force()
	result := make(chan error, 1)
	go func() { result <- s.finish(ctx, deadline) }()

	if forced {
		force()
	}
	for {
		select {
		case err := <-result:
			if forced {
				return errForced
			}
			return err
		case sig := <-s.signals:
			if sig == syscall.SIGINT {
				interrupts++
			}
			quit := sig == syscall.SIGQUIT
			if quit && !forced {
				s.dump()
			}
			if (quit || interrupts >= 2) && !forced {
				forced = true
				force()
			}
		}
	}
}

// finish ends the workers, then the reactor, which may still owe clients the last bytes of
// their answers. It runs beside drain and touches nothing that drain does.
func (s *service) finish(ctx context.Context, deadline time.Time) error {
	if s.upgrade.tenure == replaced {
		deadline = s.settle(ctx)
	}
	missed := s.supervisor.Stop(ctx)
	why := <-s.ended
	if least := time.Now().Add(closeMin); deadline.Before(least) {
		deadline = least
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	closed := s.engine.Close(ctx)
	if missed || errors.Is(closed, context.DeadlineExceeded) {
		return errDeadline
	}
	return errors.Join(why, closed)
}
