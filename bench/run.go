package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"path"
	"strconv"
	"strings"
	"time"

	"gophersnake/bench/openloop"
)

const (
	drainSeconds = 5 // for answers after the last request of an open loop was due

	// cellOverhead is what a cell takes beside warm-up and load, to tell how long a run takes.
	cellOverhead = 1500 * time.Millisecond

	// barLatencyRepeats is how often a round of the bar goes through an open loop.
	barLatencyRepeats = 3

	// newcomerPart is the part of the load after which a new client comes.
	newcomerPart = 4
)

// runner measures. It owns results until it returns.
type runner struct {
	root       string
	self       string // this binary, which is also the open-loop generator
	file       string // of the results
	say        io.Writer
	peers      []peer
	workloads  []workload
	barOnly    bool // of latencies only gophersnake's: the bar has them beside each other
	placements []placement
	lacking    map[string]string
	unclosed   map[string]bool // peers that never call close()
	results    *results
}

// run goes A B C, C B A through the peers, so that what the machine does meanwhile hits all and
// nobody always comes first or after the same one.
func (r *runner) run(ctx context.Context) error {
	fmt.Fprintf(r.say, "about %v\n", r.estimate().Round(time.Second))
	r.checkClosing(ctx)
	for round := 1; round <= r.results.Rounds; round++ {
		for _, where := range r.placements {
			for i := range r.workloads {
				w := &r.workloads[i]
				if where.name == apart && !w.pinned {
					continue
				}
				for j := range r.peers {
					if round%2 == 0 {
						j = len(r.peers) - 1 - j
					}
					p := &r.peers[j]
					if !r.fits(p, w) {
						continue
					}
					for range r.repeats(w) {
						c := r.cell(ctx, p, w, where)
						c.Round = round
						if ctx.Err() != nil {
							return ctx.Err()
						}
						r.results.Cells = append(r.results.Cells, c)
						fmt.Fprintln(r.say, c.String())
					}
				}
				if err := r.results.write(r.file); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// fits reports whether p is there and can answer w at all.
func (r *runner) fits(p *peer, w *workload) bool {
	if r.lacking[p.name] != "" || p.fixed && !w.fixed || p.alone && !w.plainHello() {
		return false
	}
	if r.barOnly && w.measure == latency && p.name != ours {
		return false
	}
	// With one thread the CPU-bound workloads are all the same one.
	return !p.one || !strings.HasPrefix(w.name, "cpu-") || w.threads == 1
}

// repeats is how often a round measures w: the bar has few open loops, of one server, and their p99
// differs more from one to the next than most figures.
func (r *runner) repeats(w *workload) int {
	if r.barOnly && w.measure == latency {
		return barLatencyRepeats
	}
	return 1
}

func (r *runner) estimate() (total time.Duration) {
	for _, where := range r.placements {
		for i := range r.workloads {
			w := &r.workloads[i]
			for j := range r.peers {
				if r.fits(&r.peers[j], w) && (where.name != apart || w.pinned) {
					total += time.Duration(r.repeats(w)) * (r.load(w) + cellOverhead)
				}
			}
		}
	}
	return total * time.Duration(r.results.Rounds)
}

// load is how long a cell of w is under load.
func (r *runner) load(w *workload) time.Duration {
	seconds := 0
	switch w.measure {
	case throughput:
		seconds = r.results.Seconds + r.results.Warmup
	case latency:
		seconds = r.results.LatencySeconds
		if w.slow > 0 {
			seconds += int(slowSettled / time.Second)
		}
	}
	return time.Duration(seconds) * time.Second
}

// cell starts the server, verifies it, loads it, verifies it again and stops it.
func (r *runner) cell(ctx context.Context, p *peer, w *workload, where placement) cell {
	c := cell{Placement: where.name, Workload: w.name, Peer: p.name,
		Unclosed: w.app != plainApp && r.unclosed[p.name]}
	if err := r.measure(ctx, p, w, where, &c); err != nil {
		c.Failure = strings.ReplaceAll(err.Error(), r.root, ".")
	}
	return c
}

func (r *runner) measure(
	ctx context.Context, p *peer, w *workload, where placement, c *cell,
) error {
	if p.alone {
		w = w.withoutApp()
	}
	s, err := newSite(r.root, p, w)
	if err != nil {
		return err
	}
	sv, err := launch(ctx, p, s, where.server)
	if err != nil {
		return err
	}
	defer sv.stop()
	c.StartMillis = float64(sv.started.Microseconds()) / 1e3
	wire, err := sv.verify(ctx, w)
	if err != nil {
		return err
	}
	switch w.measure {
	case throughput:
		err = r.flood(ctx, sv, w, where, wire, c)
	case latency:
		err = r.drip(ctx, sv, w, where, c)
	}
	if err != nil {
		return err
	}
	if _, err := sv.verify(ctx, w); err != nil {
		return fmt.Errorf("after the load: %w", err)
	}
	if c.PSSBytes == 0 {
		return c.weigh(sv)
	}
	return nil
}

func (c *cell) weigh(sv *server) error {
	processes, err := sv.processes()
	if err != nil {
		return err
	}
	c.PSSBytes, err = pssOf(processes)
	return err
}

// flood is the closed loop. wire is the mean length of an answer over the cycle.
func (r *runner) flood(
	ctx context.Context, sv *server, w *workload, where placement, wire float64, c *cell,
) error {
	script, err := writeScript(w, sv.site)
	if err != nil {
		return err
	}
	if r.results.Warmup > 0 {
		if _, err := wrk(ctx, script, w, sv.site, r.results.Warmup, where.client); err != nil {
			return err
		}
	}
	before, err := sv.clocks()
	if err != nil {
		return err
	}
	served := sv.newcomer(ctx, w, time.Duration(r.results.Seconds)*time.Second)
	seen, err := wrk(ctx, script, w, sv.site, r.results.Seconds, where.client)
	c.Starved = !<-served
	if err != nil {
		return err
	}
	after, err := sv.clocks()
	if err != nil {
		return err
	}
	c.fill(seen.requests, seen.seconds, after.since(before), seen.cpu)
	c.Errors = seen.errors
	return seen.check(w, wire)
}

// newcomer comes when a part of the load is over and tells whether it was served in the rest. A
// server that gives its threads to the clients that came first answers those very fast, and wrk
// does not tell that it answered nobody else.
func (sv *server) newcomer(ctx context.Context, w *workload, load time.Duration) <-chan bool {
	served := make(chan bool, 1)
	end := time.Now().Add(load)
	ask := w.requests[0]
	go func() {
		timer := time.NewTimer(load / newcomerPart)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		l := openloop.NewLink(sv.dial, end)
		defer l.Close()
		m := openloop.Message{Method: ask.method, Wire: ask.wire(sv.site.address()), Length: -1}
		_, failed := l.Do(ctx, &m)
		served <- failed == nil
	}()
	return served
}

// clocks are read before and after a load.
type clocks struct {
	at           time.Duration // on the wall
	server, busy time.Duration // CPU time of the server, and of everything on the machine
}

func (sv *server) clocks() (clocks, error) {
	processes, err := sv.processes()
	if err != nil {
		return clocks{}, err
	}
	busy, err := busyCPU()
	return clocks{time.Since(sv.begin), cpuOf(processes), busy}, err
}

func (c clocks) since(before clocks) clocks {
	return clocks{c.at - before.at, c.server - before.server, c.busy - before.busy}
}

func (c *cell) fill(requests int64, seconds float64, spent clocks, generator time.Duration) {
	c.Requests, c.Seconds = requests, seconds
	c.PerSecond = float64(requests) / seconds
	c.ServerCPU = spent.server.Seconds() / seconds
	c.GeneratorCPU = generator.Seconds() / seconds
	c.OtherCPU = max(0, (spent.busy-spent.server-generator).Seconds()/spent.at.Seconds())
	if requests > 0 {
		c.CPUMicros = float64(spent.server.Microseconds()) / float64(requests)
	}
}

// drip is the open loop: the generator is this program in a process of its own, so that it can
// be put on CPUs of its own. It says when the load begins, and it keeps its clients until its
// input ends, so that the server is weighed with them.
func (r *runner) drip(
	ctx context.Context, sv *server, w *workload, where placement, c *cell,
) error {
	args := []string{r.self, "latency", "--json", "--hold",
		"--rate", strconv.FormatFloat(w.rate, 'f', -1, 64),
		"--clients", strconv.Itoa(w.clients),
		"--duration", strconv.Itoa(r.results.LatencySeconds) + "s",
		"--drain", strconv.Itoa(drainSeconds) + "s",
		"--idle", strconv.Itoa(w.idle), "--slow", strconv.Itoa(w.slow),
		"--length", strconv.Itoa(w.requests[0].length)}
	for i := range w.requests {
		args = append(args, fmt.Sprintf("%d*http://%s",
			w.requests[i].times, path.Join(sv.site.address(), w.requests[i].path)))
	}
	args = pin(args, where.client)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	hold, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	var problems strings.Builder
	cmd.Stderr = &problems
	if err := cmd.Start(); err != nil {
		return err
	}
	listened := c.listen(sv, bufio.NewReader(out))
	hold.Close()
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("bench latency: %w: %.160s", err, problems.String())
	}
	return listened
}

// listen follows what the generator says.
func (c *cell) listen(sv *server, out *bufio.Reader) error {
	if line, err := out.ReadString('\n'); err != nil || line != "ready\n" {
		return fmt.Errorf("the generator said %q: %w", line, err)
	}
	before, err := sv.clocks()
	if err != nil {
		return err
	}
	var seen openloop.Report
	if err := json.NewDecoder(out).Decode(&seen); err != nil {
		return err
	}
	after, err := sv.clocks()
	if err != nil {
		return err
	}
	spent := after.since(before)
	c.fill(seen.Done, spent.at.Seconds(), spent, time.Duration(seen.CPUMicros)*time.Microsecond)
	c.Latency, c.Errors = &seen, seen.Faults
	if seen.Done == 0 {
		return fmt.Errorf("no answer in time: %v", seen.Faults)
	}
	return c.weigh(sv)
}

// String is the line that is said when a cell is done.
func (c *cell) String() string {
	line := fmt.Sprintf("%d %-6s %-15s %-16s", c.Round, c.Placement, c.Workload, c.Peer)
	switch {
	case c.Failure != "":
		return line + " " + c.Failure
	case c.Latency != nil:
		line += fmt.Sprintf(" p50 %7d us  p99 %7d us", c.Latency.At(50), c.Latency.At(99))
	case c.Requests > 0:
		line += fmt.Sprintf(" %10.1f/s", c.PerSecond)
	}
	line += fmt.Sprintf(" %8.1f us CPU %5.1f MiB, up in %.0f ms",
		c.CPUMicros, float64(c.PSSBytes)/(1<<20), c.StartMillis)
	return strings.TrimRight(line+" "+(&row{cells: []cell{*c}}).notes(), " ")
}

// wanted picks the workloads or peers with the given names, or all of them.
func wanted(asked string, all []string) (map[string]bool, error) {
	chosen := map[string]bool{}
	for _, name := range all {
		chosen[name] = asked == ""
	}
	for name := range strings.SplitSeq(asked, ",") {
		if _, known := chosen[name]; !known && asked != "" {
			return nil, fmt.Errorf("%q is none of %s", name, strings.Join(all, " "))
		}
		if asked != "" {
			chosen[name] = true
		}
	}
	return chosen, nil
}
