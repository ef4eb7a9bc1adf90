package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// comparison is one figure, stored and now.
type comparison struct {
	name        string
	stored, now float64
	more        float64 // by which part it may be more
	verdict     string  // "" is as it should be
}

// compare puts each stored figure beside the new one and counts those that are worse.
func compare(stored, now *figures) (lines []string, worse int) {
	var all []comparison
	scale := now.Reference / stored.Reference
	for _, name := range slices.Sorted(maps.Keys(stored.Go)) {
		was, is := stored.Go[name], goFigure{}
		is, found := now.Go[name]
		if !found {
			all = append(all, comparison{name: name, verdict: "WORSE: gone"})
			continue
		}
		all = append(all, comparison{name: name + " allocs", stored: float64(was.Allocs),
			now: float64(is.Allocs)})
		if timed(name) {
			all = append(all, comparison{name: name + " ns", stored: was.Nanos * scale,
				now: is.Nanos, more: nanosMore})
		}
	}
	for _, python := range slices.Sorted(maps.Keys(stored.Shim)) {
		is, found := now.Shim[python]
		if !found {
			continue // a note says why, or it is not here
		}
		short, _, _ := strings.Cut(python, " ")
		was := stored.Shim[python]
		all = append(all,
			comparison{name: "shim's own instructions, Python " + short, stored: was.Own,
				now: is.Own, more: instructionsMore},
			comparison{name: "all instructions, Python " + short, stored: was.All, now: is.All,
				more: instructionsMore})
	}
	lines = append(lines, fmt.Sprintf("%-52s %10s %10s %8s", "", "stored", "now", ""))
	for i := range all {
		all[i].judge()
		if strings.HasPrefix(all[i].verdict, "WORSE") {
			worse++
		}
		lines = append(lines, all[i].String())
	}
	return lines, worse
}

// timed tells the benchmarks whose time says something: those of one goroutine. In the others the
// system's scheduler has the greatest part.
func timed(name string) bool { return !strings.HasPrefix(name, "loop ") }

func (c *comparison) judge() {
	switch {
	case c.verdict != "":
	case c.now > c.stored*(1+c.more):
		c.verdict = "WORSE"
	case c.now < c.stored*(1-max(c.more, instructionsMore)):
		c.verdict = "better: UPDATE=1 keeps it"
	}
}

func (c *comparison) String() string {
	change := ""
	if c.stored > 0 {
		change = fmt.Sprintf("%+.1f%%", (c.now/c.stored-1)*100)
	}
	return strings.TrimRight(fmt.Sprintf("%-52s %10s %10s %8s  %s", c.name,
		number(c.stored), number(c.now), change, c.verdict), " ")
}
