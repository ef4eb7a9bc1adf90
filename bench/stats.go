package main

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// spread is what a few rounds say: the median with the least and the most.
type spread struct {
	median, least, most float64
	rounds              int
}

func spreadOf(values []float64) spread {
	if len(values) == 0 {
		return spread{}
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	median := sorted[middle]
	if len(sorted)%2 == 0 {
		median = (sorted[middle-1] + sorted[middle]) / 2
	}
	return spread{median, sorted[0], sorted[len(sorted)-1], len(sorted)}
}

// number prints a figure with three digits that mean something, and commas.
func number(v float64) string {
	switch {
	case v == 0:
		return "0"
	case math.Abs(v) < 10:
		return fmt.Sprintf("%.2f", v)
	case math.Abs(v) < 100:
		return fmt.Sprintf("%.1f", v)
	}
	digits := fmt.Sprintf("%.0f", v)
	for at := len(digits) - 3; at > 0 && digits[at-1] != '-'; at -= 3 {
		digits = digits[:at] + "," + digits[at:]
	}
	return digits
}

// String is "median (least–most)", or one number when there was one round.
func (s spread) String() string {
	switch s.rounds {
	case 0:
		return ""
	case 1:
		return number(s.median)
	}
	return fmt.Sprintf("%s (%s–%s)", number(s.median), number(s.least), number(s.most))
}

// ratio prints a spread of ratios. If some rounds say more than 1 and some less, then the
// difference is below the noise, and ≈ says so.
func (s spread) ratio() string {
	switch {
	case s.rounds == 0:
		return ""
	case s.rounds == 1:
		return fmt.Sprintf("%.2f", s.median)
	case s.least < 1 && s.most > 1:
		return fmt.Sprintf("≈ %.2f (%.2f–%.2f)", s.median, s.least, s.most)
	}
	return fmt.Sprintf("%.2f (%.2f–%.2f)", s.median, s.least, s.most)
}

// row is all rounds of one peer at one workload.
type row struct {
	peer  string
	cells []cell // of all rounds
}

// table is one workload in one placement.
type table struct {
	run       *results
	again     bool // an earlier run has one of the same workload
	work      *workNote
	placement string
	rows      []row // in the order of the peers
}

// tables sorts the cells.
func (r *results) tables() []table {
	var all []table
	for _, where := range []string{shared, apart} {
		for i := range r.Workloads {
			t := table{run: r, work: &r.Workloads[i], placement: where}
			for _, p := range r.Peers {
				one := row{peer: p.Name}
				for _, c := range r.Cells {
					if c.Placement == where && c.Workload == t.work.Name && c.Peer == p.Name {
						c.Starved = c.Starved && c.hadTime(t.work.Clients)
						one.cells = append(one.cells, c)
					}
				}
				if len(one.cells) > 0 {
					t.rows = append(t.rows, one)
				}
			}
			if len(t.rows) > 0 {
				all = append(all, t)
			}
		}
	}
	return all
}

// hadTime reports whether a new client could have been served in the load: with all the others before
// it twice.
func (c *cell) hadTime(clients int) bool {
	rest := c.Seconds * (1 - 1.0/newcomerPart)
	return c.PerSecond > 0 && 2*float64(clients)/c.PerSecond < rest
}

// of collects a value of the good cells.
func (r *row) of(value func(*cell) float64) spread {
	var values []float64
	for i := range r.cells {
		if r.cells[i].Failure == "" {
			values = append(values, value(&r.cells[i]))
		}
	}
	return spreadOf(values)
}

// figure is what a workload is judged by.
func (t *table) figure(c *cell) float64 {
	switch t.work.Measure {
	case latency:
		return float64(c.Latency.At(99)) / 1e3
	case start:
		return c.StartMillis
	}
	return c.PerSecond
}

// ratio compares ours with a peer, round by round. It is above 1 where ours is better, whether
// more or less is better in this workload.
func (t *table) ratio(peer *row) spread {
	return t.against(t.row(ours), peer)
}

// row finds a server's rounds; nil when it has none.
func (t *table) row(peer string) *row {
	for i := range t.rows {
		if t.rows[i].peer == peer {
			return &t.rows[i]
		}
	}
	return nil
}

// between compares two servers, round by round; above 1 where the first is better.
func (t *table) between(mine, peer *row) spread {
	var ratios []float64
	for i := range mine.cells {
		for j := range peer.cells {
			a, b := &mine.cells[i], &peer.cells[j]
			if a.Round != b.Round || a.Failure != "" || b.Failure != "" {
				continue
			}
			left, right := t.figure(a), t.figure(b)
			if t.work.Measure != throughput {
				left, right = right, left
			}
			if right > 0 {
				ratios = append(ratios, left/right)
			}
		}
	}
	return spreadOf(ratios)
}

// starves reports whether the server left out new clients in most rounds.
func (r *row) starves() bool {
	n := 0
	for i := range r.cells {
		if r.cells[i].Starved {
			n++
		}
	}
	return 2*n > len(r.cells)
}

// outrunsGenerator reports whether the generator was at its limit in every round.
func (r *row) outrunsGenerator() bool {
	return !slices.ContainsFunc(r.cells, func(c cell) bool { return c.GeneratorCPU <= generatorBusy })
}

// leavesOutClose reports whether the server saved the app's own end of each request.
func (r *row) leavesOutClose() bool {
	return slices.ContainsFunc(r.cells, func(c cell) bool { return c.Unclosed })
}

// best finds the rival: to whom mine has the least ratio, none of those to skip, none that serves
// only some of its clients or only a part of each request.
func (t *table) best(mine *row, skip map[string]bool) *row {
	var found *row
	var least float64
	for i := range t.rows {
		one := &t.rows[i]
		if skip[one.peer] || one.starves() || one.leavesOutClose() {
			continue
		}
		ratio := t.against(mine, one)
		if ratio.rounds > 0 && (found == nil || ratio.median < least) {
			found, least = one, ratio.median
		}
	}
	return found
}

// against is between, where both are there and not the same.
func (t *table) against(mine, peer *row) spread {
	if mine == nil || peer == nil || mine.peer == peer.peer {
		return spread{}
	}
	return t.between(mine, peer)
}

// excluded names who would be the rival but for what it leaves out.
func (t *table) excluded(mine *row, skip map[string]bool, than spread) (said []string) {
	for i := range t.rows {
		one := &t.rows[i]
		ratio := t.against(mine, one)
		if skip[one.peer] || ratio.rounds == 0 || ratio.median >= than.median {
			continue
		}
		if one.leavesOutClose() {
			said = append(said, fmt.Sprintf("%.2f to %s, which never calls close()", ratio.median,
				one.peer))
		} else if one.starves() {
			said = append(said, fmt.Sprintf("%.2f to %s, which serves who came first", ratio.median,
				one.peer))
		}
	}
	return said
}

// invalid tells what forbids to judge a server by its figures: they are of the requests that it
// answered, or without the crowd that should have been there.
func (r *row) invalid() notes {
	var said notes
	if r.starves() {
		said.add("starves new clients")
	}
	for i := range r.cells {
		c := &r.cells[i]
		said.add(c.Failure)
		for _, kind := range slices.Sorted(maps.Keys(c.Errors)) {
			said.add(kind + " errors")
		}
		said.addCrowd(c)
	}
	return said
}

// notes are told once each.
type notes []string

func (n *notes) add(note string) {
	if note != "" && !slices.Contains(*n, note) {
		*n = append(*n, note)
	}
}

// addCrowd tells of those who should have been there during an open loop.
func (n *notes) addCrowd(c *cell) {
	if c.Latency == nil {
		return
	}
	n.add(c.Latency.CrowdLack)
	if c.Latency.IdleLost > 0 {
		n.add("idle clients were closed")
	}
}

func (n notes) String() string {
	return strings.ReplaceAll(strings.Join(n, "; "), "|", `\|`)
}

const unclosedNote = "never calls close(), where the framework ends a request"

// notes tells what was wrong in some round.
func (r *row) notes() string {
	var said notes
	errors := map[string]int64{}
	others := 0.0
	for i := range r.cells {
		c := &r.cells[i]
		said.add(c.Failure)
		if c.Starved {
			said.add("a new client got no answer during the load")
		}
		if c.Unclosed {
			said.add(unclosedNote)
		}
		for kind, n := range c.Errors {
			errors[kind] += n
		}
		said.addCrowd(c)
		if c.Latency != nil {
			for _, warning := range c.Latency.Warnings {
				said.add(warning)
			}
		}
		others = max(others, c.OtherCPU)
		if c.GeneratorCPU > generatorBusy {
			said.add("generator at its limit")
		}
	}
	if others > othersBusy {
		said.add(fmt.Sprintf("others used up to %s cores", number(others)))
	}
	for _, kind := range slices.Sorted(maps.Keys(errors)) {
		said.add(fmt.Sprintf("%d %s errors", errors[kind], kind))
	}
	return said.String()
}
