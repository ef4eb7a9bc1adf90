package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"gophersnake/bench/openloop"
	"gophersnake/server/internal/host"
)

const aboutBench = `bench sends GET requests at a fixed rate, whatever the server does, and shows
how long the answers took. A latency counts from the time a request was due, not from when a
connection was free for it: a server that stops for half a second shows that in every request of
that half second, which tools that wait for an answer before they send the next request hide.

Several URLs of one host are asked in turn, 19*URL nineteen times in a row. An answer other than 2xx
is an error; a request without an answer counts with the time it waited. http:// only.`

// The defaults and limits of the command.
const (
	benchConnections = 64
	benchDuration    = 10 * time.Second
	benchDurationMax = 24 * time.Hour
	benchDrain       = 5 * time.Second // how long answers are awaited after the last request
)

// errUnanswered ends the command when the server answered nothing well.
var errUnanswered = errors.New("no request got a good answer")

// benchFlags are the settings of bench.
type benchFlags struct {
	rate        float64
	connections int
	duration    span
	json        bool
	hgrm        string
}

// span is a time on the command line: 10s, 2m, or a number of seconds.
type span time.Duration

func (s *span) String() string { return time.Duration(*s).String() }
func (s *span) Type() string   { return "time" }

func (s *span) Set(text string) error {
	d, err := time.ParseDuration(text)
	if seconds, failed := strconv.ParseUint(text, 10, 32); failed == nil {
		d, err = time.Duration(seconds)*time.Second, nil
	}
	if err != nil || d <= 0 || d > benchDurationMax {
		return fmt.Errorf("give a time such as 10s or 2m, above 0 and up to %v", benchDurationMax)
	}
	*s = span(d)
	return nil
}

func benchCommand(p process) *cobra.Command {
	f := benchFlags{duration: span(benchDuration)}
	cmd := &cobra.Command{Use: "bench URL... --rate R", Long: aboutBench,
		Short: "load a server at a fixed rate and show its latencies"}
	set := cmd.Flags()
	set.SortFlags = false
	set.Float64Var(&f.rate, "rate", 0, "requests a second; there is no default")
	set.IntVar(&f.connections, "connections", benchConnections, "connections at a time, at most")
	set.Var(&f.duration, "duration", "how long requests are due")
	set.BoolVar(&f.json, "json", false, "print JSON instead of a table")
	set.StringVar(&f.hgrm, "hgrm", "",
		"write all percentiles in HdrHistogram's text form (ms) to this `file`")
	cmd.Args = func(cmd *cobra.Command, args []string) error { return f.check(cmd, args) }
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		go func() { // ends with the process: nothing else reads the signals of this command
			for sig := range p.signals {
				if sig == syscall.SIGINT || sig == syscall.SIGTERM {
					cancel()
				}
			}
		}()
		return f.run(ctx, args, p.stdout, p.stderr)
	}
	return cmd
}

func (f *benchFlags) check(cmd *cobra.Command, args []string) error {
	switch {
	case !cmd.Flags().Changed("rate"):
		return &usageError{"bench needs --rate, the requests a second that your server has to take;" +
			" without one it would measure its own patience"}
	case !(f.rate > 0 && f.rate <= openloop.RateMax):
		return &usageError{fmt.Sprintf("--rate is above 0 and up to %d", openloop.RateMax)}
	case f.connections < 1 || f.connections > openloop.ClientsMax:
		return &usageError{fmt.Sprintf("--connections is from 1 to %d", openloop.ClientsMax)}
	case f.rate*time.Duration(f.duration).Seconds() < 1:
		return &usageError{"no request is due in --duration at this --rate"}
	}
	if _, _, err := openloop.ParseURLs(args); err != nil {
		return &usageError{"bench: " + err.Error()}
	}
	return nil
}

func (f *benchFlags) run(ctx context.Context, args []string, out, stderr io.Writer) error {
	address, cycle, err := openloop.ParseURLs(args)
	if err != nil {
		return err
	}
	if _, err := host.RaiseFilesMax(); err != nil {
		return err
	}
	pace, err := openloop.NewTimer()
	if err != nil {
		return err
	}
	defer func() { _ = pace.Close() }()
	plan := openloop.Plan{
		Dial: func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", address)
		},
		Cycle: cycle, Rate: f.rate, Duration: time.Duration(f.duration), Drain: benchDrain,
		Clients: f.connections,
	}
	before := cpuUsed()
	seen, err := plan.Run(ctx, pace)
	if err != nil {
		return err
	}
	report := seen.Report(cpuUsed() - before)
	if f.json {
		err = json.NewEncoder(out).Encode(report)
		for _, warning := range report.Warnings {
			_, _ = fmt.Fprintln(stderr, "gophersnake: warning:", warning)
		}
	} else {
		err = report.Print(out)
	}
	if f.hgrm != "" {
		err = errors.Join(err, writeHgrm(f.hgrm, seen))
	}
	if err == nil && report.Done == 0 {
		return errUnanswered
	}
	return err
}

// cpuUsed is the CPU time of this process so far.
func cpuUsed() time.Duration {
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		return 0 // RUSAGE_SELF cannot fail
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

func writeHgrm(path string, seen *openloop.Tally) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	buffered := bufio.NewWriter(file)
	return errors.Join(seen.WriteHgrm(buffered), buffered.Flush(), file.Close())
}
