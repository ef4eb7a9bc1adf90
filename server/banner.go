package main

import (
	"bytes"
	"fmt"
	"time"

	"gophersnake/server/internal/listen"
)

// banner says on stderr what is served and where. Scripts wait for the line
// "listening on http://HOST:PORT" or "listening on unix:PATH", one for each listener, which
// carries the port that was really opened.
func (s *service) banner() {
	var b bytes.Buffer
	fmt.Fprintf(&b, "gophersnake %s, %v, %s (%s)\n", version, s.python, s.python.Threading(),
		s.python.Path)
	fmt.Fprintf(&b, "app %s, ready in %v\n", s.app.label(),
		time.Since(s.began).Round(time.Millisecond))
	fmt.Fprintf(&b, "%s × %s, %s\n", plural(s.config.Workers, "worker"),
		plural(s.config.Threads, "thread"), plural(s.config.Loops, "loop"))
	for _, l := range s.listeners {
		fmt.Fprintf(&b, "listening on %s\n", listen.URL(l))
	}
	// A reader of stderr that went away is no reason to refuse clients.
	_, _ = s.stderr.Write(b.Bytes())
}

// label is the app as people know it.
func (a app) label() string {
	if a.builtIn {
		return "the built-in demo"
	}
	return a.name
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
