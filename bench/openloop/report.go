package openloop

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// quantiles are the percentiles that are kept of a histogram, in percent.
func quantiles() []float64 { return []float64{50, 75, 90, 95, 99, 99.5, 99.9, 99.95, 99.99, 100} }

// Point is a percentile: so many percent of the latencies are not above Micros.
type Point struct {
	Percent float64 `json:"percent"`
	Micros  int64   `json:"us"`
}

// Report is a tally for programs; Print makes it one for people. Latencies are in microseconds,
// from the time a request was due, those of requests that got no answer in time included.
type Report struct {
	Rate      float64            `json:"rate"`     // asked for
	Sent      float64            `json:"sent"`     // requests a second, sent while they were due
	Achieved  float64            `json:"achieved"` // good answers a second
	Due       int64              `json:"due"`
	Done      int64              `json:"done"`
	Faults    map[string]int64   `json:"faults,omitempty"`
	Examples  map[string]string  `json:"fault_examples,omitempty"`
	All       []Point            `json:"all"`
	Classes   map[string][]Point `json:"classes"`
	LagP99    int64              `json:"lag_p99_us"`  // from due to sent
	LateP99   int64              `json:"late_p99_us"` // of that, the generator's own
	IdleLost  int64              `json:"idle_lost,omitempty"`
	CrowdLack string             `json:"crowd_lack,omitempty"` // clients that could not come
	CPUMicros int64              `json:"generator_cpu_us"`
	Warnings  []string           `json:"warnings,omitempty"`
}

// When a report warns.
const (
	rateKept = 0.99                 // of the requests, sent while they were due: the rate was kept
	lateMax  = 2 * time.Millisecond // p99 of the generator's own delay
)

// Report sums up a load for which the generator used so much CPU time.
func (t *Tally) Report(cpu time.Duration) *Report {
	t.mu.Lock()
	defer t.mu.Unlock()
	asked := min(t.end.Sub(t.start), t.elapsed)
	l := &Report{Rate: t.rate, Due: t.due, Done: t.done, Faults: t.faults, Examples: t.examples,
		All: points(t.all), LagP99: t.lag.ValueAtQuantile(99), LateP99: t.late.ValueAtQuantile(99),
		Classes: map[string][]Point{}, CPUMicros: cpu.Microseconds(),
		Achieved: float64(t.done) / t.elapsed.Seconds(),
		Sent:     float64(t.inTime) / asked.Seconds()}
	for class, h := range t.classes {
		l.Classes[class] = points(h)
	}
	if t.rate > 0 && float64(t.inTime) < rateKept*float64(t.due) {
		l.Warnings = append(l.Warnings, fmt.Sprintf("the rate was not kept: %.1f of %.1f requests "+
			"a second were sent; the others waited for a free connection, and count with that "+
			"wait", l.Sent, t.rate))
	}
	if late := micros(l.LateP99); late > lateMax {
		l.Warnings = append(l.Warnings, fmt.Sprintf("the generator itself was up to %v late (p99): "+
			"it has too little CPU for this rate, and latencies of that size may be its own", late))
	}
	return l
}

// points is empty when nothing was recorded: there is no latency then, not even 0.
func points(h *hdrhistogram.Histogram) []Point {
	all := []Point{}
	if h.TotalCount() == 0 {
		return all
	}
	for _, q := range quantiles() {
		all = append(all, Point{q, h.ValueAtQuantile(q)})
	}
	return all
}

// At is the latency in microseconds of one of the percentiles that are kept, else 0.
func (l *Report) At(percent float64) int64 {
	for _, p := range l.All {
		if p.Percent == percent {
			return p.Micros
		}
	}
	return 0
}

func micros(n int64) time.Duration { return time.Duration(n) * time.Microsecond }

// Print writes the table of percentiles, the faults by kind and the warnings.
func (l *Report) Print(out io.Writer) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%d answers of %d due, %.1f/s\n", l.Done, l.Due, l.Achieved)
	for _, kind := range slices.Sorted(maps.Keys(l.Faults)) {
		fmt.Fprintf(&b, "FAULTS: %d %s (%s)\n", l.Faults[kind], kind, l.Examples[kind])
	}
	if l.CrowdLack != "" {
		fmt.Fprintf(&b, "CROWD: only %s\n", l.CrowdLack)
	}
	if l.IdleLost > 0 {
		fmt.Fprintf(&b, "CROWD: the server closed %d idle clients\n", l.IdleLost)
	}
	if len(l.All) > 0 {
		fmt.Fprintf(&b, "%10s %12s\n", "percentile", "latency")
		for _, p := range l.All {
			fmt.Fprintf(&b, "%10v %12v\n", p.Percent, micros(p.Micros))
		}
		fmt.Fprintf(&b, "sent late (no free connection, or the generator was late): p99 %v\n",
			micros(l.LagP99))
	}
	for _, warning := range l.Warnings {
		fmt.Fprintf(&b, "WARNING: %s\n", warning)
	}
	_, err := out.Write(b.Bytes())
	return err
}
