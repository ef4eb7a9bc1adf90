package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"syscall"

	"gophersnake/server/internal/logs"
	"gophersnake/server/internal/supervise"
)

// goStacksBytesMax bounds the dump of our own goroutines.
const goStacksBytesMax = 1 << 20

// signalled does what a signal asks for that does not end the server: gunicorn's and uvicorn's
// users send the same ones.
func (s *service) signalled(sig os.Signal) {
	switch sig {
	case syscall.SIGHUP:
		go s.reload(s.reloading())
	case syscall.SIGUSR2:
		s.startNext()
	case syscall.SIGTTIN:
		s.grow(1)
	case syscall.SIGTTOU:
		s.grow(-1)
	case syscall.SIGUSR1:
		s.log.Info("SIGUSR1: the log is stderr; there is no file to open again")
	}
}

// reload brings in a new generation of workers. The supervisor logs how it goes. over is called
// at the end.
func (s *service) reload(over func()) {
	defer over()
	err := s.controls.Reload(context.Background())
	var failed *supervise.ReloadError
	if err != nil && !errors.As(err, &failed) {
		s.log.Warn("no reload", "reason", err)
	}
}

func (s *service) grow(delta int) {
	if err := s.supervisor.Grow(delta); err != nil {
		s.log.Warn("the number of workers stays", "reason", err)
	}
}

// dump writes what every goroutine and every Python thread does to the log. The workers are asked
// together: each may take as long as pybridge.StacksTimeMax, and who sent SIGQUIT wants the end.
func (s *service) dump() {
	buf := make([]byte, goStacksBytesMax)
	buf = buf[:runtime.Stack(buf, true)]
	s.log.Warn("SIGQUIT: all stacks follow", "goroutines", logs.Block(buf))
	workers := s.supervisor.Snapshot()
	texts := make([]string, len(workers))
	var asked sync.WaitGroup
	for i, info := range workers {
		asked.Go(func() {
			text, err := s.engine.Stacks(context.Background(), info.ID)
			if err != nil {
				text = fmt.Sprintf("none: %v", err)
			}
			texts[i] = text
		})
	}
	asked.Wait()
	for i, info := range workers {
		s.log.Warn("stacks of a worker", "worker", info.ID, "pid", info.PID,
			"state", info.State, "python", logs.Block(texts[i]))
	}
}
