// Command bench measures gophersnake beside other WSGI servers: it installs them, starts one at
// a time, checks its answers, loads it, and makes BENCHMARKS.md of what it saw.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

const usage = `usage: bench COMMAND [flags]

  run       install the servers, measure them, write results, page and charts
  install   only install them
  report    make the page and the charts from results
  pool      measure one worker with more and more threads
  latency   the open-loop generator: latencies at a fixed rate
  check     compare allocations, times and instructions with the stored ones
  list      the workloads and the servers

bench COMMAND --help says more. All but latency start in the repository.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(ctx, os.Args[1:])
	stop()
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func command(ctx context.Context, args []string) error {
	name := ""
	if len(args) > 0 {
		name, args = args[0], args[1:]
	}
	switch name {
	case "run", "install":
		return runCommand(ctx, name, args)
	case "report":
		return reportCommand(args)
	case "latency":
		return latencyCommand(ctx, args, os.Stdin, os.Stdout)
	case crowdName:
		return crowdCommand(ctx, args, os.Stdin, os.Stdout)
	case "pool":
		return poolCommand(ctx, args, os.Stdout)
	case "check":
		return checkCommand(ctx, args, os.Stdout)
	case "list":
		return list(os.Stdout)
	}
	fmt.Fprint(os.Stderr, usage)
	return flag.ErrHelp
}

func list(out io.Writer) error {
	for _, w := range workloads() {
		mark := ""
		if w.bar {
			mark = "bar"
		}
		fmt.Fprintf(out, "%-15s %-10s %-4s %s\n", w.name, w.measure, mark, w.what)
	}
	fmt.Fprintln(out)
	for _, p := range peers() {
		fmt.Fprintf(out, "%-17s %s\n", p.name, p.setting)
	}
	return nil
}

// The defaults of a run.
const (
	roundsDefault  = 5
	secondsDefault = 3
	warmupDefault  = 1
	quickSeconds   = 2

	// latencySecondsMin is how long an open loop lasts at least, but for a quick run: in two seconds
	// of 1,000 requests each, a single pause of the machine of 20 ms is all that p99 shows.
	latencySecondsMin = 10
)

// runFlags are those of run.
type runFlags struct {
	rounds, seconds, warmup int
	quick                   bool
	peers, workloads        string
	placements, python, out string
}

func parseRun(name string, args []string) (*runFlags, error) {
	var f runFlags
	set := flag.NewFlagSet(name, flag.ContinueOnError)
	set.IntVar(&f.rounds, "rounds", roundsDefault, "how often everything is measured")
	set.IntVar(&f.seconds, "seconds", secondsDefault,
		"of load for one figure; an open loop lasts 10 at least")
	set.IntVar(&f.warmup, "warmup", warmupDefault, "seconds of load before that")
	set.BoolVar(&f.quick, "quick", false, "one round of 2 s without warm-up: a smoke test")
	set.StringVar(&f.peers, "peers", "", "only these, with commas; see bench list")
	set.StringVar(&f.workloads, "workloads", "", "only these, with commas; bar: only what decides;"+
		" rest: the others, and latencies of all servers")
	set.StringVar(&f.placements, "placements", "", "shared or pinned; default is both")
	set.StringVar(&f.python, "python", "", "`interpreter` of all servers (default the system's)")
	set.StringVar(&f.out, "out", "", "`directory` for results, page and charts (default: a run of"+
		" everything, bar or rest goes to bench/results, bench/charts and BENCHMARKS.md, others"+
		" build/bench/partial)")
	if err := set.Parse(args); err != nil {
		return nil, err
	}
	if f.quick {
		f.rounds, f.seconds, f.warmup = 1, quickSeconds, 0
	}
	if set.NArg() > 0 || f.rounds < 1 || f.seconds < 1 || f.warmup < 0 {
		return nil, errors.New("rounds and seconds are from 1; there are no arguments")
	}
	return &f, nil
}

// whole reports whether a run is worth the page: all servers, and all workloads, those that decide,
// or the rest, in which a round is enough.
func (f *runFlags) whole() bool {
	if f.peers != "" || f.placements != "" || f.quick {
		return false
	}
	decides := f.workloads == "" || f.workloads == barName
	return f.workloads == restName || decides && f.rounds >= roundsDefault
}

// places says where results, page and charts go, and which of the results are of this run.
func (f *runFlags) places(root string) (to output, file string) {
	if f.out == "" && f.whole() {
		to = published(root)
		if f.workloads == restName {
			return to, to.rest
		}
		return to, to.results
	}
	dir := f.out
	if dir == "" {
		dir = filepath.Join(root, "build", "bench", "partial")
	}
	to = output{results: filepath.Join(dir, "results.json"), page: filepath.Join(dir, "page.md"),
		charts: filepath.Join(dir, "charts")}
	return to, to.results
}

func (f *runFlags) choosePeers() ([]peer, error) {
	all := peers()
	var names []string
	for _, p := range all {
		names = append(names, p.name)
	}
	asked, err := wanted(f.peers, names)
	var chosen []peer
	for _, p := range all {
		if asked[p.name] {
			chosen = append(chosen, p)
		}
	}
	return chosen, err
}

func (f *runFlags) chooseWorkloads() ([]workload, error) {
	all := workloads()
	var names, asks []string
	for _, w := range all {
		names = append(names, w.name)
	}
	for name := range strings.SplitSeq(f.workloads, ",") {
		if name != barName && name != restName {
			asks = append(asks, name)
			continue
		}
		for _, w := range all {
			if name == barName && w.bar || name == restName && (!w.bar || w.measure == latency) {
				asks = append(asks, w.name)
			}
		}
	}
	asked, err := wanted(strings.Join(asks, ","), names)
	var chosen []workload
	for _, w := range all {
		if asked[w.name] {
			chosen = append(chosen, w)
		}
	}
	return chosen, err
}

func (f *runFlags) choosePlacements() ([]placement, error) {
	asked, err := wanted(f.placements, []string{shared, apart})
	var chosen []placement
	if asked[shared] {
		chosen = append(chosen, placement{name: shared})
	}
	if asked[apart] && runtime.NumCPU() > 1 {
		chosen = append(chosen, placement{apart, "0", "1"})
	}
	return chosen, err
}

func runCommand(ctx context.Context, name string, args []string) error {
	f, err := parseRun(name, args)
	if err != nil {
		return err
	}
	root, err := os.Getwd()
	if err != nil {
		return err
	}
	r := &runner{root: root, say: os.Stderr, barOnly: f.workloads == barName}
	var failures [4]error
	r.peers, failures[0] = f.choosePeers()
	r.workloads, failures[1] = f.chooseWorkloads()
	r.placements, failures[2] = f.choosePlacements()
	r.self, failures[3] = os.Executable()
	if err := errors.Join(failures[:]...); err != nil {
		return err
	}
	python, err := findPython(ctx, f.python)
	if err != nil {
		return err
	}
	for tool, advice := range map[string]string{"wrk": wrkAdvice,
		"taskset": "taskset not found: apt install util-linux"} {
		if _, err := exec.LookPath(tool); err != nil && name == "run" {
			return errors.New(advice)
		}
	}
	if r.lacking, err = install(ctx, root, python, r.peers, r.say); err != nil {
		return err
	}
	for _, p := range r.peers {
		if why := r.lacking[p.name]; why != "" {
			fmt.Fprintf(r.say, "without %s: %s\n", p.name, why)
		}
	}
	if name == "install" {
		return nil
	}
	if err := raiseFileLimit(); err != nil {
		return err
	}
	to, file := f.places(root)
	r.file = file
	r.results = r.describe(ctx, f, python, args)
	if f.workloads != restName {
		r.results.Floor = measureFloor(ctx, root, f.quick)
	}
	if err := r.run(ctx); err != nil {
		return err
	}
	if f.workloads == "" && f.whole() { // everything is in it
		if err := os.RemoveAll(to.rest); err != nil {
			return err
		}
	}
	return to.reportAll()
}

// describe fills in all of the results but the figures.
func (r *runner) describe(
	ctx context.Context, f *runFlags, python string, args []string,
) *results {
	command := "make bench"
	if len(args) > 0 {
		command += " BENCH='" + strings.Join(args, " ") + "'"
	}
	all := &results{Command: command, Machine: inspect(ctx, r.root, python), Rounds: f.rounds,
		Seconds: f.seconds, LatencySeconds: max(f.seconds, latencySecondsMin), Warmup: f.warmup}
	if f.quick {
		all.LatencySeconds = f.seconds
	}
	for i := range r.peers {
		p := &r.peers[i]
		note := peerNote{Name: p.name, Setting: p.setting, OneThread: p.one,
			Lacking: r.lacking[p.name]}
		if note.Lacking == "" {
			note.Version = p.version(ctx, r.root)
			s := &site{root: ".", apps: "bench/apps", dir: "DIR", module: "plain", port: 8000,
				threads: threadsDefault, backlog: backlog(), venv: "VENV"}
			note.Command = strings.Join(p.command(s), " ")
		}
		all.Peers = append(all.Peers, note)
	}
	for i := range r.workloads {
		w := &r.workloads[i]
		all.Workloads = append(all.Workloads, workNote{Name: w.name, What: w.what,
			Measure: w.measure, Threads: w.threads, Clients: w.clients, Rate: w.rate, Bar: w.bar})
	}
	return all
}
