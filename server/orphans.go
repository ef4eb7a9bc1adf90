package main

import (
	"context"

	"gophersnake/server/internal/reap"
)

// reapOrphans buries the children of others that this process inherits, until stop is called. It
// does nothing for a process that inherits none. Templates make this one inherit their workers,
// and whatever else loses its parent.
func (s *service) reapOrphans() (stop func()) {
	if !s.config.Preload && !reap.Needed() {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.reaper.Run(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}
