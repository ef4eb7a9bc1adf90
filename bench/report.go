package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"strings"
)

// The page: everything between two markers in BENCHMARKS.md is made from results.

const (
	markBegin = "<!-- bench: made by `make bench`, do not edit -->"
	markEnd   = "<!-- bench: end -->"

	// generatorBusy is from how many cores on the generator's one thread may be what limits.
	generatorBusy = 0.9

	// othersBusy is from how many cores on others' work is told of.
	othersBusy = 0.2
)

const noResults = `There are no results yet: ` + "`make bench`" + ` makes them, this part
of the page and the charts. It wants a machine with nothing else to do, for hours.
`

// output is where results, page and charts go.
type output struct{ results, page, charts string }

func published(root string) output {
	return output{results: filepath.Join(root, "bench", "results", "latest.json"),
		page:   filepath.Join(root, "BENCHMARKS.md"),
		charts: filepath.Join(root, "bench", "charts")}
}

func mapsKeys(m map[string]int64) iter.Seq[string] { return maps.Keys(m) }

func joinNotes(notes []string) string {
	return strings.ReplaceAll(strings.Join(notes, "; "), "|", `\|`)
}

func reportCommand(args []string) error {
	set := flag.NewFlagSet("report", flag.ContinueOnError)
	root, err := os.Getwd()
	if err != nil {
		return err
	}
	to := published(root)
	set.StringVar(&to.results, "results", to.results, "`file` that run wrote")
	set.StringVar(&to.page, "page", to.page, "`file` that holds the markers, or is made")
	set.StringVar(&to.charts, "charts", to.charts, "`directory`, which is replaced")
	if err := set.Parse(args); err != nil {
		return err
	}
	r, err := readResults(to.results)
	if errors.Is(err, fs.ErrNotExist) {
		return to.insert([]byte(noResults))
	}
	if err != nil {
		return err
	}
	return to.report(r)
}

// report writes page and charts.
func (o *output) report(r *results) error {
	if err := os.RemoveAll(o.charts); err != nil {
		return err
	}
	if err := os.MkdirAll(o.charts, 0o755); err != nil {
		return err
	}
	all := r.tables()
	for i := range all {
		t := &all[i]
		picture := r.chart(t)
		if err := os.WriteFile(filepath.Join(o.charts, t.file()), picture, 0o644); err != nil {
			return err
		}
	}
	charts, err := filepath.Rel(filepath.Dir(o.page), o.charts)
	if err != nil {
		return err
	}
	return o.insert(r.page(all, filepath.ToSlash(charts)))
}

// insert puts text between the markers; a page without them is replaced.
func (o *output) insert(text []byte) error {
	page, err := os.ReadFile(o.page)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	before, rest, begins := bytes.Cut(page, []byte(markBegin))
	_, after, ends := bytes.Cut(rest, []byte(markEnd))
	if !begins || !ends {
		before, after = nil, []byte("\n")
	}
	var b bytes.Buffer
	for _, part := range [][]byte{before, []byte(markBegin + "\n\n"), text,
		[]byte("\n" + markEnd), after} {
		b.Write(part)
	}
	return os.WriteFile(o.page, b.Bytes(), 0o644)
}

func (t *table) file() string { return t.placement + "-" + t.work.Name + ".svg" }

func (r *results) page(all []table, charts string) []byte {
	var b bytes.Buffer
	r.writeMachine(&b)
	r.writeServers(&b)
	r.writeBars(&b, all)
	r.writeOverview(&b, all)
	r.writeBehind(&b, all)
	for i := range all {
		r.writeTable(&b, &all[i], charts)
	}
	return b.Bytes()
}

func (r *results) writeMachine(b *bytes.Buffer) {
	m := &r.Machine
	fmt.Fprintf(b, "## Machine\n\n| | |\n|---|---|\n")
	for _, line := range [][2]string{
		{"when", m.Date}, {"commit", m.Commit}, {"command", "`" + r.Command + "`"},
		{"rounds", r.lengths()},
		{"CPU", fmt.Sprintf("%s, %d in use, governor %s", m.CPU, m.CPUs, m.Governor)},
		{"memory", number(float64(m.MemoryMiB)) + " MiB"},
		{"system", m.System + ", Linux " + m.Kernel},
		{"load before the run", m.Load}, {"Python", m.Python}, {"Go", m.Go}, {"wrk", m.Wrk},
	} {
		fmt.Fprintf(b, "| %s | %s |\n", line[0], line[1])
	}
}

func (r *results) lengths() string {
	text := fmt.Sprintf("%d, each %d s after %d s of warm-up", r.Rounds, r.Seconds, r.Warmup)
	if r.LatencySeconds > 0 {
		text += fmt.Sprintf("; open loops %d s", r.LatencySeconds)
	}
	return text
}

func (r *results) writeServers(b *bytes.Buffer) {
	fmt.Fprintf(b, "\n## Servers\n\n| server | version | threads | setting |\n|---|---|---|---|\n")
	skip := r.without()
	for _, p := range r.Peers {
		threads := "as the workload says"
		if p.OneThread {
			threads = "one"
		}
		if skip[p.Name] {
			threads = "no Python"
		}
		setting := p.Setting
		if p.Lacking != "" {
			setting = "**not measured**: " + joinNotes([]string{p.Lacking})
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s |\n", p.Name, p.Version, threads, setting)
	}
	fmt.Fprintf(b, "\nThe command lines, with port 8000 and %d threads:\n\n", threadsDefault)
	for _, p := range r.Peers {
		if p.Command != "" {
			fmt.Fprintf(b, "    %s\n", p.Command)
		}
	}
}

// without names the peers that run no Python.
func (r *results) without() map[string]bool {
	skip := map[string]bool{}
	for _, p := range peers() {
		skip[p.name] = p.fixed
	}
	return skip
}

// unit is what a workload's figure is in.
func (t *table) unit() string {
	switch t.work.Measure {
	case latency:
		return "p99 in ms"
	case start:
		return "ms"
	}
	return "requests/s"
}

func (r *results) writeOverview(b *bytes.Buffer, all []table) {
	fmt.Fprintf(b, "\n## Overview\n\nRatios are above 1 where gophersnake is better; ≈ where the "+
		"rounds disagree.\n\n| workload | | gophersnake | best other | | ratio |\n"+
		"|---|---|---|---|---|---|\n")
	skip := r.without()
	for i := range all {
		t := &all[i]
		mine, name, figure, ratio := "", "", "", ""
		for j := range t.rows {
			if t.rows[j].peer == ours {
				mine = t.rows[j].of(t.figure).String()
				if mine == "" {
					mine = t.rows[j].notes()
				}
			}
		}
		if best := t.best(skip); best != nil {
			name, figure, ratio = best.peer, best.of(t.figure).String(), t.ratio(best).ratio()
		}
		fmt.Fprintf(b, "| [%s](#%s) | %s | %s | %s | %s | %s |\n", t.title(), anchor(t.title()),
			t.unit(), mine, name, figure, ratio)
	}
}

func (t *table) title() string {
	if t.placement == shared {
		return t.work.Name
	}
	return t.work.Name + " " + t.placement
}

func anchor(title string) string { return strings.ReplaceAll(title, " ", "-") }

// writeBehind names what gophersnake does worse than anybody: the list is made, not chosen.
func (r *results) writeBehind(b *bytes.Buffer, all []table) {
	fmt.Fprintf(b, "\n## Where gophersnake is behind\n\n")
	skip := r.without()
	found := false
	for i := range all {
		t := &all[i]
		for j := range t.rows {
			one := &t.rows[j]
			ratio := t.ratio(one)
			if skip[one.peer] || one.starves() || ratio.rounds == 0 || ratio.median >= 1 {
				continue
			}
			found = true
			fmt.Fprintf(b, "* %s, to %s: %s", t.title(), one.peer, ratio.ratio())
			if one.leavesOutClose() {
				fmt.Fprintf(b, " (%s)", unclosedNote)
			}
			fmt.Fprintln(b)
		}
	}
	if !found {
		fmt.Fprintf(b, "Nowhere, in these workloads, on this machine.\n")
	}
}

func (r *results) writeTable(b *bytes.Buffer, t *table, charts string) {
	placed := "server and generator on all CPUs"
	if t.placement == apart {
		placed = "the server on one CPU, the generator on another"
	}
	fmt.Fprintf(b, "\n### %s\n\n%s; %d threads, %d connections; %s.\n", t.title(), t.work.What,
		t.work.Threads, t.work.Clients, placed)
	fmt.Fprintf(b, "`make bench BENCH='--workloads %s --placements %s'`\n\n![%s](%s/%s)\n\n",
		t.work.Name, t.placement, t.title(), charts, t.file())
	micros := func(percent float64) func(*cell) float64 {
		return func(c *cell) float64 { return float64(c.Latency.At(percent)) / 1e3 }
	}
	columns := []string{"server", t.unit(), "ratio"}
	if t.work.Measure == latency {
		columns = []string{"server", t.unit(), "ratio", "p50", "p99.9", "longest", "answers/s"}
	}
	if t.work.Measure != start {
		columns = append(columns, "CPU µs/request", "cores: server + generator")
	}
	columns = append(columns, "PSS MiB", "notes")
	fmt.Fprintf(b, "| %s |\n|%s\n", strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
	for i := range t.rows {
		one := &t.rows[i]
		values := []string{one.peer, one.of(t.figure).String(), t.ratio(one).ratio()}
		if t.work.Measure == latency {
			for _, percent := range []float64{50, 99.9, 100} {
				values = append(values, median(one, micros(percent)))
			}
			values = append(values, median(one, func(c *cell) float64 { return c.Latency.Achieved }))
		}
		if t.work.Measure != start {
			values = append(values, median(one, func(c *cell) float64 { return c.CPUMicros }),
				strings.Trim(median(one, func(c *cell) float64 { return c.ServerCPU })+" + "+
					median(one, func(c *cell) float64 { return c.GeneratorCPU }), " +"))
		}
		values = append(values,
			median(one, func(c *cell) float64 { return float64(c.PSSBytes) / (1 << 20) }), one.notes())
		fmt.Fprintf(b, "| %s |\n", strings.Join(values, " | "))
	}
}

func median(r *row, value func(*cell) float64) string {
	s := r.of(value)
	if s.rounds == 0 {
		return ""
	}
	return number(s.median)
}
