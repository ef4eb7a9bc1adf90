package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"gophersnake/bench/openloop"
)

// Whether more threads cost what they do not earn: one worker with more and more threads, under
// gophersnake's rule of who is woken and under others.

const poolUsage = `usage: bench pool [flags] [NAME=BINARY ...]

Measures one worker with different numbers of threads, each against one thread in the same
round, for each of the gophersnake binaries. Without any it builds two: "ours", and "plain",
where every ring wakes a thread and the threads fight for the GIL. Starts in the repository.

`

// The defaults of a run of the pool.
const (
	poolRounds  = 5
	poolSeconds = 2
	poolWarmup  = 250 * time.Millisecond

	// poolClients load a pool that computes. One that sleeps has clientsPerThread, so that no
	// thread ever waits for a request.
	poolClients      = 64
	clientsPerThread = 2
)

// poolKind says what a load is judged by.
type poolKind int

const (
	computes poolKind = iota // throughput to that of one thread
	sleeps                   // throughput to what so many threads can do asleep
	mixes                    // p50 to that of its short requests alone, at the same rate
)

// poolLoad is what the pool is asked for.
type poolLoad struct {
	name string
	kind poolKind
	what string // for the page
	asks []request
}

// The mix: nineteen short ones, then one that sleeps.
const (
	mixShort = 19
	mixSlept = 200 * time.Millisecond
	sleepFor = 10 * time.Millisecond
	aloneOf  = "alone" // the short requests of the mix without the others
	cpuLoad  = "cpu-1ms"
	mixLoad  = "mix"
)

func poolLoads() []poolLoad {
	spun := request{path: "/cpu1ms", want: "48000"}
	often := spun
	often.times = mixShort
	return []poolLoad{
		{"hello", computes, "13 bytes", get1("/", "Hello, World!")},
		{"cpu-100us", computes, "about 100 µs of Python", get1("/cpu100us", "4800")},
		{cpuLoad, computes, "about 1 ms of Python", []request{spun}},
		{"sleep-10ms", sleeps, "10 ms asleep", get1("/sleep10ms", "slept")},
		{mixLoad, mixes, "95 % 1 ms of Python, 5 % 200 ms asleep, half load",
			[]request{often, {path: "/sleep200ms", want: "slept"}}},
	}
}

// poolRule is a gophersnake with a rule of its own.
type poolRule struct {
	Name   string `json:"name"`
	Binary string `json:"-"`
}

// poolResults is a whole run as it is written to disk.
type poolResults struct {
	Command string     `json:"command"`
	Machine machine    `json:"machine"`
	Rounds  int        `json:"rounds"`
	Seconds int        `json:"seconds"`
	Rules   []poolRule `json:"rules"`
	Threads []int      `json:"threads"`
	Loads   []string   `json:"loads"`
	Cells   []poolCell `json:"cells"`
}

// poolCell is one figure; the rule stands where a peer's name does.
type poolCell struct {
	Threads int     `json:"threads"`
	Rate    float64 `json:"rate,omitempty"`
	cell
}

// poolRun measures. It owns results until it returns.
type poolRun struct {
	runner  *runner
	rules   []poolRule
	python  string
	loads   []poolLoad
	results *poolResults
	out     string // file
}

// poolFlags are the command's.
type poolFlags struct {
	rounds, seconds             int
	quick                       bool
	threads, loads, python, out string
}

func poolCommand(ctx context.Context, args []string, out io.Writer) error {
	var f poolFlags
	set := flag.NewFlagSet("pool", flag.ContinueOnError)
	set.Usage = func() {
		fmt.Fprint(set.Output(), poolUsage)
		set.PrintDefaults()
	}
	set.IntVar(&f.rounds, "rounds", poolRounds, "how often everything is measured")
	set.IntVar(&f.seconds, "seconds", poolSeconds, "of load for one figure")
	set.BoolVar(&f.quick, "quick", false, "one round of 1 s: a smoke test")
	set.StringVar(&f.threads, "threads", "4,16,64", "beside 1, with commas")
	set.StringVar(&f.loads, "loads", "", "only these of hello, cpu-100us, cpu-1ms, sleep-10ms, mix")
	set.StringVar(&f.python, "python", "", "`interpreter` (default the system's)")
	set.StringVar(&f.out, "out", filepath.Join("build", "bench", "pool.json"), "`file`")
	if err := set.Parse(args); err != nil {
		return err
	}
	if f.quick {
		f.rounds, f.seconds = 1, 1
	}
	p, err := f.prepare(ctx, args, set.Args())
	if err != nil {
		return err
	}
	if err := p.run(ctx); err != nil {
		return err
	}
	return p.results.print(out)
}

// prepare makes a run of the flags; given are the binaries.
func (f *poolFlags) prepare(ctx context.Context, args, given []string) (*poolRun, error) {
	if f.rounds < 1 || f.seconds < 1 {
		return nil, errors.New("rounds and seconds are from 1")
	}
	if _, err := exec.LookPath("wrk"); err != nil {
		return nil, errors.New(wrkAdvice)
	}
	root, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	p := &poolRun{out: f.out, results: &poolResults{Rounds: f.rounds, Seconds: f.seconds,
		Command: strings.Join(append([]string{"build/bench/bench", "pool"}, args...), " ")}}
	p.runner = &runner{root: root, say: os.Stderr, results: &results{Seconds: f.seconds}}
	var failures [5]error
	p.loads, failures[0] = chooseLoads(f.loads)
	p.results.Threads, failures[1] = parseThreads(f.threads)
	p.runner.self, failures[2] = os.Executable()
	p.python, failures[3] = findPython(ctx, f.python)
	failures[4] = raiseFileLimit()
	if err := errors.Join(failures[:]...); err != nil {
		return nil, err
	}
	if p.rules, err = findRules(ctx, root, given); err != nil {
		return nil, err
	}
	for _, load := range p.loads {
		p.results.Loads = append(p.results.Loads, load.name)
	}
	p.results.Rules, p.results.Machine = p.rules, inspect(ctx, root, p.python)
	return p, nil
}

// chooseLoads adds what the mix needs to be at half load.
func chooseLoads(asked string) ([]poolLoad, error) {
	all := poolLoads()
	var names []string
	for _, load := range all {
		names = append(names, load.name)
	}
	chosen, err := wanted(asked, names)
	if err != nil {
		return nil, err
	}
	chosen[cpuLoad] = chosen[cpuLoad] || chosen[mixLoad]
	return slices.DeleteFunc(all, func(l poolLoad) bool { return !chosen[l.name] }), nil
}

// parseThreads puts 1 in front, to which all others are compared.
func parseThreads(asked string) ([]int, error) {
	all := []int{1}
	for text := range strings.SplitSeq(asked, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("threads %q: give numbers from 1, with commas", asked)
		}
		if !slices.Contains(all, n) {
			all = append(all, n)
		}
	}
	return all, nil
}

// pooled is a running server of a round.
type pooled struct {
	rule    string
	threads int
	server  *server
}

// run starts all servers anew in each round, and there goes through all of them at one load
// before the next comes: so whatever else the machine does hits all. Every other round goes
// from many threads to few.
func (p *poolRun) run(ctx context.Context) error {
	for round := 1; round <= p.results.Rounds; round++ {
		all, err := p.start(ctx)
		if err == nil {
			if round%2 == 0 {
				slices.Reverse(all)
			}
			err = p.round(ctx, round, all)
		}
		for _, one := range all {
			one.server.stop()
		}
		if err == nil {
			err = p.results.write(p.out)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *poolRun) start(ctx context.Context) ([]pooled, error) {
	var all []pooled
	first := line("pool", "", poolLoads()[0].asks, app("pool"))
	for _, threads := range p.results.Threads {
		for _, rule := range p.rules {
			who := peer{name: fmt.Sprintf("pool-%s-%d", rule.Name, threads),
				command: func(s *site) []string { return p.command(rule.Binary, s) }}
			first.threads = threads
			s, err := newSite(p.runner.root, &who, &first)
			if err != nil {
				return all, err
			}
			sv, err := launch(ctx, &who, s, "")
			if err != nil {
				return all, fmt.Errorf("%s: %w", who.name, err)
			}
			all = append(all, pooled{rule.Name, threads, sv})
		}
	}
	return all, nil
}

func (p *poolRun) command(binary string, s *site) []string {
	return []string{binary, s.module + ":app", "--listen", s.address(), "--workers", "1",
		"--threads", strconv.Itoa(s.threads), "--chdir", s.apps, "--python", p.python,
		"--control", "off", "--log-level", "warning"}
}

func (p *poolRun) round(ctx context.Context, round int, all []pooled) error {
	for i := range p.loads {
		load := &p.loads[i]
		for _, one := range all {
			if load.kind == mixes && one.threads == 1 {
				continue // who sleeps holds all others up
			}
			cells := []poolCell{{Threads: one.threads}}
			if load.kind == mixes {
				cells = append(cells, cells[0])
				p.mix(ctx, one, load, round, cells)
			} else {
				cells[0].Workload = load.name
				if err := p.flood(ctx, one, load, &cells[0].cell); err != nil {
					cells[0].Failure = err.Error()
				}
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			for j := range cells {
				cells[j].Round, cells[j].Placement, cells[j].Peer = round, shared, one.rule
				fmt.Fprintf(p.runner.say, "%2d %s\n", one.threads, cells[j].String())
			}
			p.results.Cells = append(p.results.Cells, cells...)
		}
	}
	return nil
}

// flood is a closed loop.
func (p *poolRun) flood(ctx context.Context, one pooled, load *poolLoad, c *cell) error {
	n := poolClients
	if load.kind == sleeps {
		n = clientsPerThread * one.threads
	}
	w := line(load.name, "", load.asks, clients(n), threads(one.threads))
	length, err := one.server.verify(ctx, &w)
	if err != nil {
		return err
	}
	if err := warm(ctx, one.server, &w); err != nil {
		return err
	}
	return p.runner.flood(ctx, one.server, &w, placement{name: shared}, length, c)
}

// warm lets the pool get used to a load.
func warm(ctx context.Context, sv *server, w *workload) error {
	plan := openloop.Plan{Dial: sv.dial, Duration: poolWarmup, Drain: verifyMax,
		Clients: w.clients}
	for i := range w.requests {
		plan.Cycle = append(plan.Cycle, openloop.Message{Method: w.requests[i].method,
			Wire: w.requests[i].wire(sv.site.address()), Length: -1})
	}
	_, err := plan.Run(ctx, idlePacer{})
	return err
}

// idlePacer is for a closed loop, where nothing is due.
type idlePacer struct{}

func (idlePacer) Until(time.Time) error { return nil }
func (idlePacer) Close() error          { return nil }

// mix measures the mix and then, at the same rate, its short requests alone.
func (p *poolRun) mix(
	ctx context.Context, one pooled, load *poolLoad, round int, cells []poolCell,
) {
	rate := halfLoad(p.results.perSecond(round, cpuLoad, p.rules[0].Name, 1), one.threads)
	for i, asks := range [][]request{load.asks, load.asks[:1]} {
		c := &cells[i]
		c.Workload, c.Rate = []string{load.name, aloneOf}[i], rate
		if rate == 0 {
			c.Failure = "no rate: " + cpuLoad + " was not measured"
			continue
		}
		w := line(load.name, "", asks)
		w.rate = rate
		err := p.runner.drip(ctx, one.server, &w, placement{name: shared}, &c.cell)
		if err != nil {
			c.Failure = err.Error()
		}
	}
}

// halfLoad is half of what so many threads can do of the mix, when one does so many short
// requests a second: all threads may be asleep, or all that is not asleep may wait for the GIL.
func halfLoad(shorts float64, threads int) float64 {
	if shorts == 0 {
		return 0
	}
	const parts = mixShort + 1
	computing := mixShort / shorts / parts // seconds a request of the mix
	asleep := mixSlept.Seconds() / parts
	return min(1/computing, float64(threads)/(computing+asleep)) / 2
}

func (r *poolResults) write(path string) error {
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}
