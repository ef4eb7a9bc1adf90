package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"gophersnake/server/internal/handover"
)

// tenure is where a server is between its predecessor and its successor.
type tenure int

const (
	following tenure = iota // started by the server before it, which still serves too
	inCharge                // the server
	replacing               // a new server starts beside it
	replaced                // the new one is in charge; this one finishes
)

func (t tenure) String() string {
	return [...]string{"following", "in charge", "replacing", "replaced"}[t]
}

// mayBecome lists the legal moves.
func (t tenure) mayBecome(to tenure) bool {
	switch t {
	case following:
		return to == inCharge
	case inCharge:
		return to == replacing
	case replacing:
		return to == inCharge || to == replaced
	}
	return false
}

// upgrade is the service's part in replacing one binary by another. Fields belong to the goroutine
// that calls serve unless a comment says otherwise.
type upgrade struct {
	tenure tenure
	cancel context.CancelCauseFunc // gives up the new server that starts
	// events are run by serve: what other goroutines have found out. Leave is true when this
	// server's time is over.
	events chan func() (leave bool)
	ended  chan struct{}  // closed when serve looks at events no more
	others sync.WaitGroup // goroutines that write to events
}

func newUpgrade(in *inheritance) *upgrade {
	u := &upgrade{tenure: inCharge, cancel: func(error) {},
		events: make(chan func() bool), ended: make(chan struct{})}
	if in.previous != nil {
		u.tenure = following
	}
	return u
}

// move changes the tenure. An illegal move would leave two servers in charge, or none.
func (u *upgrade) move(to tenure) {
	if !u.tenure.mayBecome(to) {
		panic(fmt.Sprintf("server: a server that is %v cannot be %v", u.tenure, to))
	}
	u.tenure = to
}

// report lets serve run f; false when it has no ear any more. Any goroutine but serve's.
func (u *upgrade) report(f func() (leave bool)) bool {
	select {
	case u.events <- f:
		return true
	case <-u.ended:
		return false
	}
}

// end gives up what is not finished. A second call does nothing.
func (u *upgrade) end() {
	select {
	case <-u.ended:
	default:
		close(u.ended)
		u.cancel(errors.New("this server stops"))
	}
}

// opened is called when this server accepts clients.
func (s *service) opened() {
	previous := s.inherited.previous
	if previous == nil {
		s.keepSocketFiles(false)
		s.beginNotifying()
		return
	}
	// It may wait as long as the old server lives, so nobody waits for it.
	go func() {
		if !s.waitComplete() {
			return
		}
		if err := previous.Ready(); err != nil {
			s.log.Warn("the old server is gone", "pid", previous.PID, "error", err)
		}
		previous.WaitConfirmed()
		s.upgrade.report(func() bool {
			s.upgrade.move(inCharge)
			s.log.Info("took over from the old server", "pid", previous.PID)
			s.keepSocketFiles(false)
			s.beginNotifying()
			return false
		})
	}()
}

// waitComplete returns when every worker is ready: the old server must not go before, or those that
// are there would have to serve for all. False: this server ends.
func (s *service) waitComplete() bool {
	tick := time.NewTicker(completeEvery)
	defer tick.Stop()
	for {
		ready, wanted := 0, s.supervisor.Size() // which ctl and signals change
		for _, info := range s.supervisor.Snapshot() {
			if info.State == stateReady {
				ready++
			}
		}
		if wanted > 0 && ready >= wanted {
			return true
		}
		select {
		case <-tick.C:
		case <-s.upgrade.ended:
			return false
		}
	}
}

// completeEvery is how often waitComplete looks.
const completeEvery = 20 * time.Millisecond

// settle lets the clients of a server that was replaced ask what they were promised they could,
// while its workers are there. Nobody waits for this server, so the time for running requests
// begins behind that.
func (s *service) settle(ctx context.Context) (deadline time.Time) {
	ctx, cancel := context.WithTimeout(ctx, s.config.GracefulTimeout)
	defer cancel()
	s.engine.Settle(ctx)
	return time.Now().Add(s.config.GracefulTimeout)
}

// startNext answers SIGUSR2: the binary at our own path is started beside us.
func (s *service) startNext() {
	u := s.upgrade
	switch {
	case u.tenure == replacing:
		s.log.Warn("no upgrade: one is on its way")
		return
	case u.tenure != inCharge || !s.open.Load():
		s.log.Warn("no upgrade: this server is not in charge yet")
		return
	case s.controls.drained.Load():
		s.log.Warn("no upgrade", "reason", errShut)
		return
	case os.Getpid() == 1:
		// A container lives as long as its pid 1.
		s.log.Warn("no upgrade: pid 1 cannot be replaced; start a new container")
		return
	case s.inherited.unknown != nil:
		s.log.Warn("no upgrade: it is not known how this server was started",
			"error", s.inherited.unknown)
		return
	}
	u.move(replacing)
	s.log.Info("upgrade: starting a new server", "binary", s.inherited.origin.Path)
	ctx, cancel := context.WithCancelCause(context.Background())
	limit := s.config.StartTimeout
	if s.config.Workers > 1 {
		limit *= 2 // the first worker imports alone, then the others
	}
	ctx, stop := context.WithTimeoutCause(ctx, limit,
		fmt.Errorf("the new server was not ready within %v (see --start-timeout)", limit))
	u.cancel = cancel
	u.others.Go(func() {
		defer stop()
		next, err := s.awaitNext(ctx)
		if !u.report(func() bool { return s.finishUpgrade(next, err) }) && next != nil {
			next.Abandon()
		}
	})
}

// awaitNext starts a new server and returns it when it accepts clients. One that fails is gone
// when the error returns.
func (s *service) awaitNext(ctx context.Context) (*handover.Next, error) {
	var offers []handover.Offer
	for _, l := range s.listeners {
		socket, ok := l.(syscall.Conn)
		if !ok {
			return nil, fmt.Errorf("a %T cannot be handed over", l)
		}
		offers = append(offers, handover.Offer{Socket: socket, Name: "http",
			Owned: slices.Contains(s.owned, l)})
	}
	next, err := handover.Start(s.inherited.origin, s.inherited.env, offers)
	if err != nil {
		return nil, fmt.Errorf("the new server does not start: %w", err)
	}
	if err := next.Ready(ctx); err != nil {
		next.Abandon()
		return nil, err
	}
	return next, nil
}

// closeDoors is the beginning of a drain that ctl asks for. A new server that starts is given up:
// it would accept clients again, at a Unix socket whose file has gone.
func (s *service) closeDoors() (leave bool) {
	s.controls.drained.Store(true)
	s.upgrade.cancel(errShut)
	s.engine.CloseDoors()
	return false
}

// finishUpgrade lets the new server be the server, or goes on as before. It reports whether this
// one is to leave.
func (s *service) finishUpgrade(next *handover.Next, err error) (leave bool) {
	if s.controls.drained.Load() { // also when it failed because the doors were shut under it
		err = errShut
	} else if err == nil {
		err = next.Confirm()
	}
	if err != nil {
		if next != nil {
			next.Abandon()
		}
		s.upgrade.move(inCharge)
		s.log.Error("upgrade failed; this server goes on", "reason", err)
		return false
	}
	// The order matters: once it is released the new server speaks to the manager, which must
	// know it by then, and the files of the sockets are its.
	s.keepSocketFiles(true)
	s.nameMainProcess(next.PID())
	next.Release()
	s.upgrade.move(replaced)
	s.endNotifying()
	s.engine.HandOver()
	s.log.Info("upgrade: the new server is in charge; this one finishes", "pid", next.PID())
	return true
}
