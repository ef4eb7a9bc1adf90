package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
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

// output is where results, page and charts go. What a run of the bar leaves out may have been
// measured by another one, the rest.
type output struct{ results, rest, page, charts string }

func published(root string) output {
	return output{results: filepath.Join(root, "bench", "results", "latest.json"),
		rest:   filepath.Join(root, "bench", "results", "rest.json"),
		page:   filepath.Join(root, "BENCHMARKS.md"),
		charts: filepath.Join(root, "bench", "charts")}
}

func reportCommand(args []string) error {
	set := flag.NewFlagSet("report", flag.ContinueOnError)
	root, err := os.Getwd()
	if err != nil {
		return err
	}
	to := published(root)
	set.StringVar(&to.results, "results", to.results, "`file` that run wrote")
	set.StringVar(&to.rest, "rest", to.rest, "`file` that run --workloads rest wrote; may be none")
	set.StringVar(&to.page, "page", to.page, "`file` that holds the markers, or is made")
	set.StringVar(&to.charts, "charts", to.charts, "`directory`, which is replaced")
	if err := set.Parse(args); err != nil {
		return err
	}
	return to.reportAll()
}

// reportAll is report of what the files hold.
func (o *output) reportAll() error {
	first, err := readResults(o.results)
	if errors.Is(err, fs.ErrNotExist) {
		return o.insert([]byte(noResults))
	}
	if err != nil {
		return err
	}
	runs := []*results{first}
	if o.rest != "" {
		rest, err := readResults(o.rest)
		if err == nil {
			runs = append(runs, rest)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return o.report(runs...)
}

// report writes page and charts. The first run is the one that decides.
func (o *output) report(runs ...*results) error {
	if err := os.RemoveAll(o.charts); err != nil {
		return err
	}
	if err := os.MkdirAll(o.charts, 0o755); err != nil {
		return err
	}
	all := tablesOf(runs)
	for i := range all {
		t := &all[i]
		picture := t.run.chart(t)
		if err := os.WriteFile(filepath.Join(o.charts, t.file()), picture, 0o644); err != nil {
			return err
		}
	}
	charts, err := filepath.Rel(filepath.Dir(o.page), o.charts)
	if err != nil {
		return err
	}
	return o.insert(page(runs, filepath.ToSlash(charts)))
}

// tablesOf sorts the cells of all runs.
func tablesOf(runs []*results) []table {
	var all []table
	for _, r := range runs {
		for _, t := range r.tables() {
			t.again = find(all, t.work.Name, t.placement) != nil
			all = append(all, t)
		}
	}
	return all
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

func (t *table) file() string {
	return t.placement + "-" + strings.ReplaceAll(t.name(), " ", "-") + ".svg"
}

func page(runs []*results, charts string) []byte {
	var b bytes.Buffer
	writeMachines(&b, runs)
	first := runs[0]
	first.writeServers(&b)
	first.writeBars(&b, first.tables())
	all := tablesOf(runs)
	writeOverview(&b, all)
	writeBehind(&b, all)
	for i := range all {
		all[i].write(&b, charts)
	}
	return b.Bytes()
}

// writeMachines has a column for each run.
func writeMachines(b *bytes.Buffer, runs []*results) {
	fmt.Fprintf(b, "## Machine\n\n|%s\n|%s\n", strings.Repeat(" |", len(runs)+1),
		strings.Repeat("---|", len(runs)+1))
	for _, line := range []struct {
		what string
		of   func(r *results, m *machine) string
	}{
		{"when", func(_ *results, m *machine) string { return m.Date }},
		{"commit", func(_ *results, m *machine) string { return m.Commit }},
		{"command", func(r *results, _ *machine) string { return "`" + r.Command + "`" }},
		{"rounds", func(r *results, _ *machine) string { return r.lengths() }},
		{"CPU", func(_ *results, m *machine) string {
			return fmt.Sprintf("%s, %d in use, governor %s", m.CPU, m.CPUs, m.Governor)
		}},
		{"memory", func(_ *results, m *machine) string { return number(float64(m.MemoryMiB)) + " MiB" }},
		{"system", func(_ *results, m *machine) string { return m.System + ", Linux " + m.Kernel }},
		{"load before the run", func(_ *results, m *machine) string { return m.Load }},
		{"Python", func(_ *results, m *machine) string { return m.Python }},
		{"Go", func(_ *results, m *machine) string { return m.Go }},
		{"wrk", func(_ *results, m *machine) string { return m.Wrk }},
	} {
		fmt.Fprintf(b, "| %s |", line.what)
		for _, r := range runs {
			fmt.Fprintf(b, " %s |", line.of(r, &r.Machine))
		}
		fmt.Fprintln(b)
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
	skip := without()
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
			setting = "**not measured**: " + notes{p.Lacking}.String()
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
func without() map[string]bool {
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

func writeOverview(b *bytes.Buffer, all []table) {
	fmt.Fprintf(b, "\n## Overview\n\nRatios are above 1 where gophersnake is better; ≈ where the "+
		"rounds disagree.\n\n| workload | | gophersnake | best other | | ratio |\n"+
		"|---|---|---|---|---|---|\n")
	skip := without()
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
		if best := t.best(t.row(ours), skip); best != nil {
			name, figure, ratio = best.peer, best.of(t.figure).String(), t.ratio(best).ratio()
		}
		fmt.Fprintf(b, "| [%s](#%s) | %s | %s | %s | %s | %s |\n", t.title(), anchor(t.title()),
			t.unit(), mine, name, figure, ratio)
	}
}

// name tells the table of a later run from that of the first, which is of gophersnake alone.
func (t *table) name() string {
	if t.again {
		return t.work.Name + " all"
	}
	return t.work.Name
}

func (t *table) title() string {
	if t.placement == shared {
		return t.name()
	}
	return t.name() + " " + t.placement
}

// command measures the table again.
func (t *table) command() string {
	args := "--workloads " + t.work.Name + " --placements " + t.placement
	if len(t.rows) == 1 {
		args += " --peers " + t.rows[0].peer
	}
	for _, flag := range []struct {
		name        string
		is, usually int
	}{{"rounds", t.run.Rounds, roundsDefault}, {"seconds", t.run.Seconds, secondsDefault},
		{"warmup", t.run.Warmup, warmupDefault}} {
		if flag.is != flag.usually {
			args += fmt.Sprintf(" --%s %d", flag.name, flag.is)
		}
	}
	return "make bench BENCH='" + args + "'"
}

func anchor(title string) string { return strings.ReplaceAll(title, " ", "-") }

// writeBehind names what gophersnake does worse than anybody: the list is made, not chosen.
func writeBehind(b *bytes.Buffer, all []table) {
	fmt.Fprintf(b, "\n## Where gophersnake is behind\n\n")
	skip := without()
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

func (t *table) write(b *bytes.Buffer, charts string) {
	placed := "server and generator on all CPUs"
	if t.placement == apart {
		placed = "the server on one CPU, the generator on another"
	}
	fmt.Fprintf(b, "\n### %s\n\n%s; %d threads, %d connections; %s.\n", t.title(), t.work.What,
		t.work.Threads, t.work.Clients, placed)
	fmt.Fprintf(b, "`%s`\n\n![%s](%s/%s)\n\n", t.command(), t.title(), charts, t.file())
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
