package main

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"gophersnake/bench/openloop"
)

// How bench pool measures.

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
			cells, err := p.patient(ctx, one, load, round)
			if err != nil {
				return err
			}
			for i := range cells {
				fmt.Fprintf(p.runner.say, "%2d %s\n", one.threads, cells[i].String())
			}
			p.results.Cells = append(p.results.Cells, cells...)
		}
	}
	return nil
}

// patient measures until nothing else ran on the machine meanwhile, or patience ends. It
// returns what was disturbed least.
func (p *poolRun) patient(ctx context.Context, one pooled, load *poolLoad, round int) (
	best []poolCell, err error,
) {
	end := time.Now().Add(p.patience)
	disturbed := math.Inf(1)
	for {
		if err := quiet(ctx, end); err != nil {
			return nil, err
		}
		cells := p.cells(ctx, one, load, round)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		most := 0.0
		for i := range cells {
			most = max(most, cells[i].OtherCPU)
		}
		if most < disturbed {
			best, disturbed = cells, most
		}
		if disturbed <= othersBusy || time.Now().After(end) {
			return best, nil
		}
	}
}

// quiet returns when others use little of the machine, or at the given time.
func quiet(ctx context.Context, end time.Time) error {
	ticker := time.NewTicker(quietFor)
	defer ticker.Stop()
	for time.Now().Before(end) {
		before, err := busyCPU()
		if err != nil {
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		after, err := busyCPU()
		if err != nil {
			return err
		}
		if (after - before).Seconds() <= othersBusy*quietFor.Seconds() {
			return nil
		}
	}
	return nil
}

// cells is one figure, or that of the mix and the one beside it.
func (p *poolRun) cells(ctx context.Context, one pooled, load *poolLoad, round int) []poolCell {
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
	for i := range cells {
		cells[i].Round, cells[i].Placement, cells[i].Peer = round, shared, one.rule
	}
	return cells
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
