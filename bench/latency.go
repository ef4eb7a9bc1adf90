package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// The open-loop generator as a command: latencies at a fixed rate.

const latencyUsage = `usage: bench latency --rate R [flags] [N*]URL ...

Sends R requests a second to the URLs in turn, N times in a row to one with N*, whatever the
server does. A latency counts from the time the request was due. All URLs are on one host.

`

// quantiles are the percentiles that are kept of a histogram, in percent.
func quantiles() []float64 { return []float64{50, 75, 90, 95, 99, 99.5, 99.9, 99.95, 99.99, 100} }

// point is a percentile: so many percent of the latencies are not above Micros.
type point struct {
	Percent float64 `json:"percent"`
	Micros  int64   `json:"us"`
}

// latencies is what the command prints with --json.
type latencies struct {
	Rate      float64            `json:"rate"`     // asked for
	Achieved  float64            `json:"achieved"` // good answers a second
	Due       int64              `json:"due"`
	Done      int64              `json:"done"`
	Faults    map[string]int64   `json:"faults,omitempty"`
	All       []point            `json:"all"`
	Classes   map[string][]point `json:"classes"`
	LagP99    int64              `json:"lag_p99_us"` // from due to sent
	IdleLost  int64              `json:"idle_lost,omitempty"`
	CrowdLack string             `json:"crowd_lack,omitempty"` // clients that could not come
	CPUMicros int64              `json:"generator_cpu_us"`
}

func (l *latencies) at(percent float64) int64 {
	for _, p := range l.All {
		if p.Percent == percent {
			return p.Micros
		}
	}
	return 0
}

func pointsOf(h *hdrhistogram.Histogram) []point {
	var points []point
	for _, q := range quantiles() {
		points = append(points, point{q, h.ValueAtQuantile(q)})
	}
	return points
}

// latencyFlags are the command's.
type latencyFlags struct {
	rate            float64
	clients         int
	duration, drain time.Duration
	idle, slow      int
	length          int64
	json, hold      bool
	hgrm            string
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
	set.StringVar(&f.hgrm, "hgrm", "", "write HdrHistogram's percentiles (in ms) to this `file`")
	if err := set.Parse(args); err != nil {
		return err
	}
	address, cycle, err := cycleOf(set.Args())
	if err != nil {
		return err
	}
	for i := range cycle {
		cycle[i].length = f.length
	}
	// The timer and the network wait in the same poller: with a CPU to itself, one does not
	// wait for the other.
	runtime.GOMAXPROCS(max(2, runtime.NumCPU()))
	return f.load(ctx, address, cycle, in, out)
}

func (f *latencyFlags) load(
	ctx context.Context, address string, cycle []message, in io.Reader, out io.Writer,
) error {
	if err := raiseFileLimit(); err != nil {
		return err
	}
	var around *crowd
	var lack error
	if f.idle+f.slow > 0 {
		around, lack = gather(ctx, address, f.idle, f.slow)
		defer around.dismiss()
	}
	pace, err := newTimer()
	if err != nil {
		return err
	}
	defer pace.close()
	if f.hold {
		fmt.Fprintln(out, "ready")
	}
	p := plan{
		dial: func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", address)
		},
		cycle: cycle, rate: f.rate, duration: f.duration, drain: f.drain, clients: f.clients,
	}
	before := ownCPU()
	result, err := p.run(ctx, pace)
	if err != nil {
		return err
	}
	report := result.report(f.rate, ownCPU()-before)
	if lack != nil {
		report.CrowdLack = lack.Error()
	}
	if around != nil {
		report.IdleLost = around.lostIdle()
	}
	if f.hgrm != "" {
		if err := writeHgrm(f.hgrm, result.all); err != nil {
			return err
		}
	}
	if f.json {
		err = json.NewEncoder(out).Encode(report)
	} else {
		err = report.print(out)
	}
	if f.hold {
		_, _ = io.Copy(io.Discard, in) // until it ends, in whatever way
	}
	return err
}

func (t *tally) report(rate float64, cpu time.Duration) *latencies {
	l := &latencies{Rate: rate, Due: t.due, Done: t.done, Faults: t.faults,
		All: pointsOf(t.all), LagP99: t.lag.ValueAtQuantile(99),
		Classes: map[string][]point{}, CPUMicros: cpu.Microseconds(),
		Achieved: float64(t.done) / t.elapsed.Seconds()}
	for class, h := range t.classes {
		l.Classes[class] = pointsOf(h)
	}
	return l
}

func (l *latencies) print(out io.Writer) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%d answers of %d due, %.1f/s\n", l.Done, l.Due, l.Achieved)
	for kind, n := range l.Faults {
		fmt.Fprintf(&b, "FAULTS: %d %s\n", n, kind)
	}
	if l.CrowdLack != "" {
		fmt.Fprintf(&b, "CROWD: only %s\n", l.CrowdLack)
	}
	if l.IdleLost > 0 {
		fmt.Fprintf(&b, "CROWD: the server closed %d idle clients\n", l.IdleLost)
	}
	fmt.Fprintf(&b, "%10s %12s\n", "percentile", "latency")
	for _, p := range l.All {
		fmt.Fprintf(&b, "%10v %12v\n", p.Percent, time.Duration(p.Micros)*time.Microsecond)
	}
	fmt.Fprintf(&b, "sent late (no free client, or the generator was late): p99 %v\n",
		time.Duration(l.LagP99)*time.Microsecond)
	_, err := out.Write(b.Bytes())
	return err
}

// microsPerMilli scales the written percentiles, as the format's plotters expect.
const microsPerMilli = 1000

// hgrmTicks is how many percentiles are written for each halving of the distance to 100 %.
const hgrmTicks = 5

func writeHgrm(path string, h *hdrhistogram.Histogram) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	buffered := bufio.NewWriter(file)
	_, err = h.PercentilesPrint(buffered, hgrmTicks, microsPerMilli)
	return errors.Join(err, buffered.Flush(), file.Close())
}

// cycleOf reads the arguments, [N*]URL.
func cycleOf(args []string) (address string, cycle []message, err error) {
	for _, arg := range args {
		times := 1
		if n, rest, found := strings.Cut(arg, "*"); found {
			if times, err = strconv.Atoi(n); err != nil || times < 1 || times > 1_000 {
				return "", nil, fmt.Errorf("%s: %q is no number from 1 to 1000", arg, n)
			}
			arg = rest
		}
		u, err := url.Parse(arg)
		if err != nil {
			return "", nil, err
		}
		if u.Scheme != "http" || u.Host == "" {
			return "", nil, fmt.Errorf("%s: not an http:// URL", arg)
		}
		host := u.Host
		if u.Port() == "" {
			host = net.JoinHostPort(u.Hostname(), "80")
		}
		if address != "" && host != address {
			return "", nil, fmt.Errorf("%s: not on %s", arg, address)
		}
		address = host
		ask := request{path: u.RequestURI()}
		ask.fill(false)
		for range times {
			cycle = append(cycle, message{class: u.Path, method: "GET", length: -1,
				wire: ask.wire(u.Host)})
		}
	}
	if len(cycle) == 0 {
		return "", nil, errors.New("no URL; bench latency --help says more")
	}
	return address, cycle, nil
}
