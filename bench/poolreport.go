package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"
)

// What bench pool says: a table for each load, and for each rule what it keeps of the bar.

// The bar of the pool.
const (
	keepsMin = 0.95 // of the throughput of one thread, where requests compute
	sleepsBy = 0.05 // how far from threads / 10 ms, where they sleep
	mixMax   = 1.5  // p50 of the mix to that of its short requests alone
)

// poolRow is all rounds of one rule with so many threads at one load.
type poolRow struct {
	rule    string
	threads int
	figure  spread // requests a second, or p50 in milliseconds
	ratio   spread // what the load is judged by
	beside  spread // to the first rule with as many threads, above 1 where this one is better
	cpu     spread // microseconds a request
	notes   string
}

// met says whether the row is within the bar; measured is false where there is nothing to
// judge.
func (r *poolRow) met(kind poolKind) (measured, met bool) {
	switch kind {
	case computes:
		return r.ratio.rounds > 0 && r.threads > 1, r.ratio.median >= keepsMin
	case sleeps:
		off := r.ratio.median - 1
		return r.ratio.rounds > 0, -sleepsBy <= off && off <= sleepsBy
	}
	return r.ratio.rounds > 0, r.ratio.median <= mixMax
}

// figureOf is what a cell is about: requests a second, or milliseconds.
func (k poolKind) figureOf(c *poolCell) float64 {
	if k == mixes {
		return float64(c.Latency.At(50)) / 1e3
	}
	return c.PerSecond
}

// row collects the rounds. Ratios are of the same round.
func (r *poolResults) row(load *poolLoad, rule string, threads int) poolRow {
	one := poolRow{rule: rule, threads: threads}
	var figures, ratios, beside, cpu []float64
	kept := row{}
	for round := 1; round <= r.Rounds; round++ {
		c := r.find(round, load.name, rule, threads)
		if c == nil {
			continue
		}
		kept.cells = append(kept.cells, c.cell)
		if c.Failure != "" {
			continue
		}
		figure := load.kind.figureOf(c)
		figures, cpu = append(figures, figure), append(cpu, c.CPUMicros)
		if base := r.base(load, c); base > 0 {
			ratios = append(ratios, figure/base)
		}
		first := r.find(round, load.name, r.Rules[0].Name, threads)
		if rule != r.Rules[0].Name && first != nil && first.Failure == "" {
			better := figure / load.kind.figureOf(first)
			if load.kind == mixes {
				better = 1 / better
			}
			beside = append(beside, better)
		}
	}
	one.figure, one.ratio, one.cpu = spreadOf(figures), spreadOf(ratios), spreadOf(cpu)
	one.beside, one.notes = spreadOf(beside), kept.notes()
	return one
}

// base is what a cell is compared with; 0 when that failed.
func (r *poolResults) base(load *poolLoad, c *poolCell) float64 {
	if load.kind == sleeps {
		return float64(c.Threads) / sleepFor.Seconds()
	}
	name, threads := load.name, 1
	if load.kind == mixes {
		name, threads = aloneOf, c.Threads
	}
	other := r.find(c.Round, name, c.Peer, threads)
	if other == nil || other.Failure != "" {
		return 0
	}
	return load.kind.figureOf(other)
}

func (r *poolResults) find(round int, load, rule string, threads int) *poolCell {
	for i := range r.Cells {
		c := &r.Cells[i]
		if c.Round == round && c.Workload == load && c.Peer == rule && c.Threads == threads {
			return c
		}
	}
	return nil
}

// perSecond is the throughput of a good cell, else 0.
func (r *poolResults) perSecond(round int, load, rule string, threads int) float64 {
	if c := r.find(round, load, rule, threads); c != nil && c.Failure == "" {
		return c.PerSecond
	}
	return 0
}

// print writes the tables and the verdicts.
func (r *poolResults) print(out io.Writer) error {
	var b bytes.Buffer
	m := &r.Machine
	fmt.Fprintf(&b, "%d rounds of %d s; %s, %d CPUs, Python %s, commit %s, load before %s\n",
		r.Rounds, r.Seconds, m.CPU, m.CPUs, m.Python, m.Commit, m.Load)
	verdicts := map[poolKind][]string{}
	for _, load := range poolLoads() {
		var rows []poolRow
		for _, rule := range r.Rules {
			for _, threads := range r.Threads {
				if one := r.row(&load, rule.Name, threads); one.figure.rounds > 0 || one.notes != "" {
					rows = append(rows, one)
				}
			}
		}
		if len(rows) > 0 {
			load.write(&b, rows)
			for _, rule := range r.Rules {
				verdicts[load.kind] = append(verdicts[load.kind], load.verdict(rule.Name, rows))
			}
		}
	}
	fmt.Fprintln(&b)
	for kind, bar := range []string{
		fmt.Sprintf("computing, ≥ %.2f of one thread's requests/s", keepsMin),
		fmt.Sprintf("asleep, threads × %.0f requests/s ± %.0f %%", 1/sleepFor.Seconds(),
			sleepsBy*100),
		fmt.Sprintf("mix, p50 ≤ %.1f of that of its short requests alone", mixMax),
	} {
		for _, text := range verdicts[poolKind(kind)] {
			fmt.Fprintf(&b, "* %s: %s\n", bar, text)
		}
	}
	_, err := out.Write(b.Bytes())
	return err
}

func (l *poolLoad) write(b *bytes.Buffer, rows []poolRow) {
	columns := map[poolKind]string{computes: "requests/s | to 1 thread",
		sleeps: "requests/s | to threads × 100", mixes: "p50 ms | to the short ones alone"}
	fmt.Fprintf(b, "\n%s: %s\n\n| | threads | %s | µs CPU | to %s | | |\n|%s\n", l.name, l.what,
		columns[l.kind], rows[0].rule, strings.Repeat("---|", 8))
	for i := range rows {
		one := &rows[i]
		judged := ""
		if measured, met := one.met(l.kind); measured {
			judged = verdict(true, met, false)
		}
		fmt.Fprintf(b, "| %s | %d | %s | %s | %s | %s | %s | %s |\n", one.rule, one.threads,
			one.figure, one.ratio.ratio(), one.cpu, one.beside.ratio(), judged, one.notes)
	}
}

// verdict tells of one rule at one load, and names each number of threads that is off.
func (l *poolLoad) verdict(rule string, rows []poolRow) string {
	var off []string
	judged := 0
	for i := range rows {
		measured, met := rows[i].met(l.kind)
		if rows[i].rule != rule || !measured {
			continue
		}
		if judged++; !met {
			off = append(off, fmt.Sprintf("%.2f at %d threads", rows[i].ratio.median,
				rows[i].threads))
		}
	}
	text := verdict(judged > 0, len(off) == 0, false)
	if len(off) > 0 {
		text += ": " + strings.Join(off, ", ")
	}
	return fmt.Sprintf("%s, %s: %s", l.name, rule, text)
}
