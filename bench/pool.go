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
	quietFor    = 200 * time.Millisecond // nothing else ran so long: nothing else runs

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

	// patience is how long a figure may wait for others on this machine, to be measured again
	// if they came meanwhile.
	patience time.Duration
}

// poolFlags are the command's.
type poolFlags struct {
	rounds, seconds             int
	quick                       bool
	threads, loads, python, out string
	patience                    time.Duration
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
	set.DurationVar(&f.patience, "patience", 0, "how long a figure may wait until nothing else"+
		" runs here, and be measured again if something did")
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
	p := &poolRun{out: f.out, patience: f.patience}
	p.results = &poolResults{Rounds: f.rounds, Seconds: f.seconds,
		Command: strings.Join(append([]string{"build/bench/bench", "pool"}, args...), " ")}
	p.runner = &runner{root: root, say: os.Stderr, results: &results{Seconds: f.seconds,
		LatencySeconds: f.seconds}}
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

func (r *poolResults) write(path string) error {
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}
