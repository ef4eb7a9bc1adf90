package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"gophersnake/server/internal/handover"
	"gophersnake/server/internal/listen"
	"gophersnake/server/internal/systemd"
)

// inheritance is what this process got from whoever started it: a person's shell, a service
// manager, or the server before it. Read only.
type inheritance struct {
	origin   handover.Origin
	env      []string           // for the next server
	previous *handover.Previous // nil: nobody's successor
	sockets  []*os.File         // of a service manager
	manager  *systemd.Notifier  // nil: none

	broken  error // why the sockets cannot be taken: nothing can be served
	unknown error // why there is no origin: there can be no upgrade
	unheard error // why the manager cannot be told: it will do without
}

// inherit takes the inheritance out of the environment: workers that saw it could speak in our
// name. It is called once, first of all.
func inherit() *inheritance {
	in := &inheritance{env: handover.Without(os.Environ(), handover.Variable, "LISTEN_PID",
		"LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID")}
	in.origin, in.unknown = handover.FindOrigin(os.Args)
	in.previous, in.broken = handover.Take(os.Getenv(handover.Variable))
	if in.broken == nil {
		in.sockets, in.broken = systemd.Sockets(os.Getenv, os.Getpid())
	}
	in.manager, in.unheard = systemd.Connect(os.Getenv, os.Getpid())
	for _, name := range append(systemd.Variables(), handover.Variable) {
		_ = os.Unsetenv(name) // it fails for impossible names only
	}
	return in
}

// openListeners takes the sockets of the server before this one, and opens nothing then; or those
// of the service manager and those of --listen.
func (s *service) openListeners() error {
	if err := s.inherited.broken; err != nil {
		return &usageError{err.Error()}
	}
	if err := s.inherited.unheard; err != nil {
		s.log.Warn("the service manager cannot be told anything", "error", err)
	}
	if previous := s.inherited.previous; previous != nil {
		for _, socket := range previous.Sockets {
			if err := s.takeListener(socket.File, socket.Owned); err != nil {
				return err
			}
		}
		return nil
	}
	for _, f := range s.inherited.sockets {
		// deploy.md names the roles; the others are units' own names.
		if name := f.Name(); name == "https" || name == "metrics" {
			return &usageError{fmt.Sprintf("the inherited socket %s: only http can be served; "+
				"set FileDescriptorName=http", name)}
		}
		if err := s.takeListener(f, false); err != nil {
			return err
		}
	}
	for _, a := range s.config.Listen {
		l, err := listen.Open(context.Background(), a.Network, a.Address)
		if err != nil {
			return err
		}
		s.listeners = append(s.listeners, l)
		s.owned = append(s.owned, l)
	}
	return nil
}

// takeListener adds an inherited socket. Its file, if it has one, is not removed before this
// server is in charge.
func (s *service) takeListener(f *os.File, owned bool) error {
	l, err := listen.FromFile(f)
	if err != nil {
		return err
	}
	s.listeners = append(s.listeners, l)
	if owned {
		s.owned = append(s.owned, l)
	}
	return nil
}

// keepSocketFiles says whether the files of our Unix sockets stay when the listeners close.
func (s *service) keepSocketFiles(keep bool) {
	for _, l := range s.owned {
		listen.RemoveOnClose(l, !keep)
	}
}

// closeListeners also removes Unix sockets. The engine may have closed them already.
func (s *service) closeListeners() error {
	var all error
	for _, l := range s.listeners {
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			all = errors.Join(all, err)
		}
	}
	return all
}
