package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"gophersnake/loop"
	"gophersnake/server/internal/listen"
	"gophersnake/server/internal/systemd"
)

// statusEvery is how often the manager is told how busy the service is.
const statusEvery = 10 * time.Second

// beginNotifying tells the service manager that this is the service and that it serves, and feeds
// the watchdog from now on.
func (s *service) beginNotifying() {
	s.manager = s.inherited.manager
	if s.manager == nil {
		return
	}
	s.say(s.manager.Ready(s.status()))
	ctx, cancel := context.WithCancel(context.Background())
	s.unwatch = cancel
	go s.tellStatus(ctx, s.manager)
	if s.manager.Watchdog > 0 {
		go s.feedWatchdog(ctx, s.manager)
	}
}

// endNotifying: what another process of the service says counts from now on.
func (s *service) endNotifying() {
	s.manager = nil
	s.unwatch()
}

// status is the line that systemctl status shows.
func (s *service) status() string {
	var at []string
	for _, l := range s.listeners {
		at = append(at, listen.URL(l))
	}
	return fmt.Sprintf("serving %s on %s with %s × %s", s.app.name, strings.Join(at, ", "),
		plural(s.supervisor.Size(), "worker"), plural(s.config.Threads, "thread"))
}

// tellStatus keeps the status line up to date, until the server stops.
func (s *service) tellStatus(ctx context.Context, manager *systemd.Notifier) {
	tick := time.NewTicker(statusEvery)
	defer tick.Stop()
	before, at := s.engine.Stats(), time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.upgrade.ended:
			return
		case <-tick.C:
		}
		now, stats := time.Now(), s.engine.Stats()
		s.say(manager.Status(s.status() + "; " + busyness(before, stats, now.Sub(at))))
		before, at = stats, now
	}
}

// busyness is what a person wants to know at a glance.
func busyness(before, now loop.Stats, passed time.Duration) string {
	answers := 0.0
	for class := range now.Answers {
		answers += float64(now.Answers[class] - before.Answers[class])
	}
	return fmt.Sprintf("%.0f requests/s, %d running, %d waiting, %s ready",
		answers/passed.Seconds(), now.InFlight, now.Waiting, plural(len(now.Workers), "worker"))
}

// reloading tells the manager that a reload begins; the function it returns, that it is over. The
// manager waits for both, also when there was nothing to reload; but a service that stops is not
// ready, whatever became of its reload.
func (s *service) reloading() (over func()) {
	manager := s.manager
	if manager == nil {
		return func() {}
	}
	s.say(manager.Reloading())
	return func() {
		if !s.controls.ending.Load() {
			s.say(manager.Ready(s.status()))
		}
	}
}

// stopping tells the manager that the end begins.
func (s *service) stopping() { s.say(s.manager.Stopping()) }

// nameMainProcess tells the manager which process is the service.
func (s *service) nameMainProcess(pid int) { s.say(s.manager.MainPID(pid)) }

// say logs what the manager could not be told. The service goes on: the manager will do what it
// thinks right.
func (s *service) say(err error) {
	if err != nil {
		s.log.Warn("the service manager could not be told", "error", err)
	}
}

// feedWatchdog tells the manager that all is well as long as every loop answers. A loop that is
// stuck stops it, and the manager restarts the service.
func (s *service) feedWatchdog(ctx context.Context, manager *systemd.Notifier) {
	every := manager.Watchdog / 2 // sd_watchdog_enabled(3) recommends half of it
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		asked, cancel := context.WithTimeout(ctx, every)
		err := s.engine.Alive(asked)
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			s.log.Error("the watchdog is not fed: a loop does not answer", "error", err)
		default:
			s.say(manager.WatchdogAlive())
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
