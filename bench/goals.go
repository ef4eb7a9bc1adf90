package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
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

// measured is what the rounds say about a goal, and of whom; no rounds when it was not measured.
func (b *goal) measured(all []table, skip map[string]bool) (ratio spread, whom string) {
	t := find(all, b.workload, b.placement)
	if t == nil {
		return spread{}, ""
	}
	name := b.mine
	if name == "" {
		name = ours
	}
	mine := t.row(name)
	if b.beside != "" {
		if other := find(all, b.beside, b.placement); other != nil && mine != nil {
			if without := other.row(ours); without != nil {
				return t.between(mine, without), b.beside
			}
		}
		return spread{}, ""
	}
	var rival *row
	if b.against == nil {
		rival = t.best(skip)
	} else {
		rival = t.bestOf(b.against)
	}
	if mine == nil || rival == nil {
		return spread{}, ""
	}
	return t.between(mine, rival), rival.peer
}

// bestOf is best among the named.
func (t *table) bestOf(names []string) *row {
	skip := map[string]bool{}
	for _, one := range t.rows {
		skip[one.peer] = true
	}
	for _, name := range names {
		skip[name] = false
	}
	return t.best(skip)
}

// outOfReach says by how much nginx misses a goal that was missed, when it does: the generator, at
// its limit, lets nobody reach it on this machine.
func (b *goal) outOfReach(all []table, ratio spread, whom string) string {
	if b.mine != "" || b.beside != "" || ratio.rounds == 0 || ratio.median >= b.must {
		return ""
	}
	t := find(all, b.workload, b.placement)
	best, rival := t.row(nginxName), t.row(whom)
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
	skip := r.without()
	for _, one := range goals() {
		ratio, whom := one.measured(all, skip)
		fmt.Fprintf(b, "| %s | ≥ %.2f | %.2f | %s | %s | %s%s |\n", one.what, one.must, one.aim,
			ratio.ratio(), whom, verdict(ratio.rounds > 0, ratio.median >= one.must,
				ratio.median >= one.aim), one.outOfReach(all, ratio, whom))
	}
	f := &r.Floor
	shim := ""
	if f.Shim > 0 {
		shim = number(f.Shim)
	}
	fmt.Fprintf(b, "| a hello request with ten headers, GIL held, ns | ≤ %s | %s | %s | | %s |\n",
		number(pythonMust), number(pythonAim), shim,
		verdict(f.Shim > 0, f.Shim <= pythonMust, f.Shim <= pythonAim))
	switch {
	case f.Shim > 0:
		fmt.Fprintf(b, "\nIn those nanoseconds (Python %s, best run) the app's own call, made from a "+
			"bare loop of C, is %s. Allocations and instructions: `make bench-check`.\n",
			f.Python, number(f.Bare))
	case f.Lacking != "":
		fmt.Fprintf(b, "\nThe side of Python was not measured: %s.\n", f.Lacking)
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

// measureFloor runs the shim's own benchmark in the servers' Python.
func measureFloor(ctx context.Context, root, python string, quick bool) floor {
	args := []string{filepath.Join(root, "pybridge", "shim", "bench", "cost.py"), "--json",
		"--instructions", "no"}
	if quick {
		args = append(args, "--runs", "1")
	}
	text, err := exec.CommandContext(ctx, "python3", append(args, python)...).Output()
	var found []struct {
		Python string  `json:"python"`
		Shim   float64 `json:"shim_ns"`
		Bare   float64 `json:"bare_ns"`
	}
	if err == nil {
		err = json.Unmarshal(text, &found)
	}
	if err != nil || len(found) != 1 {
		return floor{Lacking: fmt.Sprintf("pybridge/shim/bench/cost.py: %v", err)}
	}
	short, _, _ := strings.Cut(found[0].Python, " ")
	return floor{Python: short, Shim: found[0].Shim, Bare: found[0].Bare}
}
