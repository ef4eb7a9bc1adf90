package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// The bar: what the project has set itself, and the floors beside it.

// goal is one line of it. Ratios are of the same round, and above 1 where the first is better.
type goal struct {
	what      string
	workload  string
	placement string
	mine      string   // "" is gophersnake
	against   []string // of whom the best counts; nil: of all that run Python
	beside    string   // instead: gophersnake's own latency in this other workload
	must, aim float64
}

func goals() []goal {
	slower := []string{"uwsgi-http", "uwsgi-http11", "gunicorn-gthread", "waitress", "cheroot",
		"mod_wsgi", "caddysnake"}
	threaded := []string{"granian", "gunicorn-gthread", "uwsgi-http", "uwsgi-http11", "waitress",
		"cheroot", "mod_wsgi"}
	granians := []string{"granian", "granian-1"}
	return []goal{
		{"hello, 64 clients, to the fastest", "hello-64", shared, "", nil, "", 1, 1.2},
		{"hello, 512 clients, to the fastest", "hello-512", shared, "", nil, "", 1, 1.2},
		{"hello, 64 clients, to granian", "hello-64", shared, "", granians, "", 1.5, 2},
		{"hello, 512 clients, to granian", "hello-512", shared, "", granians, "", 1.5, 2},
		{"hello, 64 clients, to the other servers with threads", "hello-64", shared, "", slower, "",
			3, 8},
		{"hello, 512 clients, to the other servers with threads", "hello-512", shared, "", slower, "",
			3, 8},
		{"pipelined 16, to the fastest", "pipelined-16", shared, "", nil, "", 1.5, 3},
		{"hello on one core, to the fastest", "hello-64", apart, "", nil, "", 0.95, 1.1},
		{"Flask hello, to the fastest", "flask-hello", shared, "", nil, "", 1, 1.05},
		{"Django hello, to the fastest", "django-hello", shared, "", nil, "", 1, 1.05},
		{"10 ms asleep, 512 clients, to the best with 32 threads", "sleep-10ms", shared, "", threaded,
			"", 1, 1.1},
		{"p99 without idle clients : beside 10,000", "rate-idle", shared, "", nil, "rate",
			1 / 1.2, 1 / 1.05},
		{"p99 without slow clients : beside 1,000", "rate-slow", shared, "", nil, "rate",
			1 / 1.2, 1 / 1.05},
		{"the reactor by itself, to nginx `return 200`", "hello-64", shared, reactor,
			[]string{nginxName}, "", 0.8, 1},
	}
}

// The bar for the side of Python, in nanoseconds a hello request.
const (
	pythonMust = 1200
	pythonAim  = 800
)

func find(all []table, workload, placement string) *table {
	for i := range all {
		if all[i].work.Name == workload && all[i].placement == placement {
			return &all[i]
		}
	}
	return nil
}

// finding is what the rounds say about a goal; without rounds it was not measured.
type finding struct {
	ratio    spread
	whom     string
	invalid  notes    // why the figures of ours decide nothing
	excluded []string // who would be the rival but for what it leaves out
}

func (b *goal) measured(all []table, skip map[string]bool) (f finding) {
	t := find(all, b.workload, b.placement)
	if t == nil {
		return f
	}
	name := b.mine
	if name == "" {
		name = ours
	}
	mine := t.row(name)
	if b.beside != "" {
		other := find(all, b.beside, b.placement)
		if other == nil || mine == nil {
			return f
		}
		without := other.row(ours)
		if without == nil {
			return f
		}
		return finding{ratio: t.between(mine, without), whom: b.beside,
			invalid: append(mine.invalid(), without.invalid()...)}
	}
	if b.against != nil {
		skip = t.allBut(b.against)
	}
	rival := t.best(mine, skip)
	if mine == nil || rival == nil {
		return f
	}
	f = finding{ratio: t.between(mine, rival), whom: rival.peer, invalid: mine.invalid()}
	f.excluded = t.excluded(mine, skip, f.ratio)
	return f
}

func (t *table) allBut(names []string) map[string]bool {
	others := map[string]bool{}
	for _, one := range t.rows {
		others[one.peer] = !slices.Contains(names, one.peer)
	}
	return others
}

// outOfReach says by how much nginx misses a goal that was missed, when it does: the generator, at
// its limit, lets nobody reach it on this machine.
func (b *goal) outOfReach(all []table, f *finding) string {
	if b.mine != "" || b.beside != "" || f.ratio.rounds == 0 || f.ratio.median >= b.must {
		return ""
	}
	t := find(all, b.workload, b.placement)
	best, rival := t.row(nginxName), t.row(f.whom)
	if best == nil || !best.outrunsGenerator() {
		return ""
	}
	reached := t.between(best, rival)
	if reached.rounds == 0 || reached.median >= b.must {
		return ""
	}
	return fmt.Sprintf(": at the generator's limit, nginx `return 200` gets %.2f", reached.median)
}

func (r *results) writeBars(b *bytes.Buffer, all []table) {
	fmt.Fprintf(b, "\n## The bar\n\nRatios of the same round, above 1 where the first is better; to "+
		"the best of those named.\n\n| | must | aim | measured | to | |\n|---|---|---|---|---|---|\n")
	skip := without()
	for _, one := range goals() {
		f := one.measured(all, skip)
		judged := verdict(f.ratio.rounds > 0, f.ratio.median >= one.must, f.ratio.median >= one.aim)
		if len(f.invalid) > 0 {
			judged = "**not valid**: " + f.invalid.String()
		}
		for _, other := range f.excluded {
			judged += "; " + other
		}
		fmt.Fprintf(b, "| %s | ≥ %.2f | %.2f | %s | %s | %s%s |\n", one.what, one.must, one.aim,
			f.ratio.ratio(), f.whom, judged, one.outOfReach(all, &f))
	}
	r.Floor.writeBars(b)
}

// writeBars adds the lines of the floor.
func (f *floor) writeBars(b *bytes.Buffer) {
	shim, allocations := "", ""
	if f.Shim > 0 {
		shim = number(f.Shim)
	}
	if f.Allocations != nil {
		allocations = strconv.FormatInt(*f.Allocations, 10)
	}
	fmt.Fprintf(b, "| a hello request with ten headers, GIL held, ns | ≤ %s | %s | %s | | %s |\n",
		number(pythonMust), number(pythonAim), shim,
		verdict(f.Shim > 0, f.Shim <= pythonMust, f.Shim <= pythonAim))
	none := allocations == "0"
	fmt.Fprintf(b, "| allocations of the Go process, a kept-alive hello | 0 | 0 | %s | | %s |\n",
		allocations, verdict(allocations != "", none, none))
	switch {
	case f.Shim > 0:
		fmt.Fprintf(b, "\nThe nanoseconds are of Python %s, the fastest of %d found, best of its runs; "+
			"the app's own call, made from a bare loop of C, is %s of them.\n",
			f.Python, max(f.Pythons, 1), number(f.Bare))
	case f.Lacking != "":
		fmt.Fprintf(b, "\nNot measured: %s.\n", f.Lacking)
	}
}

func verdict(measured, must, aim bool) string {
	switch {
	case !measured:
		return "not measured"
	case aim:
		return "aim reached"
	case must:
		return "met"
	}
	return "**missed**"
}

// measureFloor runs the shim's own benchmark in each Python found, and counts what the Go process
// allocates.
func measureFloor(ctx context.Context, root string, quick bool) (f floor) {
	args := []string{filepath.Join(root, "pybridge", "shim", "bench", "cost.py"), "--json",
		"--instructions", "no"}
	if quick {
		args = append(args, "--runs", "1")
	}
	text, err := exec.CommandContext(ctx, "python3", args...).Output()
	var found []struct {
		Python string  `json:"python"`
		Shim   float64 `json:"shim_ns"`
		Bare   float64 `json:"bare_ns"`
	}
	if err == nil {
		err = json.Unmarshal(text, &found)
	}
	if err != nil || len(found) == 0 {
		f.Lacking = fmt.Sprintf("pybridge/shim/bench/cost.py: %v", err)
	}
	f.Pythons = len(found)
	for _, one := range found {
		if f.Shim == 0 || one.Shim < f.Shim {
			f.Python, _, _ = strings.Cut(one.Python, " ")
			f.Shim, f.Bare = one.Shim, one.Bare
		}
	}
	seen := figures{Go: map[string]goFigure{}}
	if err := seen.runGo(ctx, []string{"./loop"}, "^BenchmarkKeepAlive$"); err != nil {
		f.Lacking = err.Error()
	}
	if kept, found := seen.Go["loop BenchmarkKeepAlive"]; found {
		f.Allocations = &kept.Allocs
	}
	return f
}
