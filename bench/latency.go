package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"runtime"
	"time"

	"gophersnake/bench/openloop"
)

// The open-loop generator as a command: latencies at a fixed rate.

const latencyUsage = `usage: bench latency --rate R [flags] [N*]URL ...

Sends R requests a second to the URLs in turn, N times in a row to one with N*, whatever the
server does. A latency counts from the time the request was due. All URLs are on one host.

`

// latencyFlags are the command's.
type latencyFlags struct {
	rate            float64
	clients         int
	duration, drain time.Duration
	idle, slow      int
	length          int64
	json, hold      bool
}

func latencyCommand(ctx context.Context, args []string, in io.Reader, out io.Writer) error {
	var f latencyFlags
	set := flag.NewFlagSet("latency", flag.ContinueOnError)
	set.Usage = func() {
		fmt.Fprint(set.Output(), latencyUsage)
		set.PrintDefaults()
	}
	set.Float64Var(&f.rate, "rate", 0, "requests a second; 0 is a closed loop, to compare with")
	set.IntVar(&f.clients, "clients", 64, "connections at most")
	set.DurationVar(&f.duration, "duration", 10*time.Second, "how long requests are due")
	set.DurationVar(&f.drain, "drain", 5*time.Second, "how long answers are awaited after that")
	set.IntVar(&f.idle, "idle", 0, "idle keep-alive clients meanwhile")
	set.IntVar(&f.slow, "slow", 0, "slow clients meanwhile")
	set.Int64Var(&f.length, "length", -1, "bytes of an answer's body, else it is a fault; -1: any")
	set.BoolVar(&f.json, "json", false, "print JSON")
	set.BoolVar(&f.hold, "hold", false,
		"say ready before the load, and keep all clients after it until standard input ends")
	if err := set.Parse(args); err != nil {
		return err
	}
	address, cycle, err := openloop.ParseURLs(set.Args())
	if err != nil {
		return fmt.Errorf("%w; bench latency --help says more", err)
	}
	for i := range cycle {
		cycle[i].Length = f.length
	}
	// The timer and the network wait in the same poller: with a CPU to itself, one does not
	// wait for the other.
	runtime.GOMAXPROCS(max(2, runtime.NumCPU()))
	return f.load(ctx, address, cycle, in, out)
}

func (f *latencyFlags) load(
	ctx context.Context, address string, cycle []openloop.Message, in io.Reader, out io.Writer,
) error {
	if err := raiseFileLimit(); err != nil {
		return err
	}
	around, came, err := startCrowd(ctx, address, f.idle, f.slow)
	if err != nil {
		return err
	}
	defer around.dismiss()
	pace, err := openloop.NewTimer()
	if err != nil {
		return err
	}
	defer pace.Close()
	if f.hold {
		fmt.Fprintln(out, "ready")
	}
	p := openloop.Plan{
		Dial: func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", address)
		},
		Cycle: cycle, Rate: f.rate, Duration: f.duration, Drain: f.drain, Clients: f.clients,
	}
	before := ownCPU()
	result, err := p.Run(ctx, pace)
	if err != nil {
		return err
	}
	used := ownCPU() - before
	went, err := around.part()
	if err != nil {
		return err
	}
	report := result.Report(used + went.cpu())
	report.CrowdLack, report.IdleLost = came.Lack, went.IdleLost
	if f.json {
		err = json.NewEncoder(out).Encode(report)
	} else {
		err = report.Print(out)
	}
	if f.hold {
		_, _ = io.Copy(io.Discard, in) // until it ends, in whatever way
	}
	return err
}
