package openloop

import (
	"errors"
	"io"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

const (
	latencyMicrosMax = 120_000_000 // the histogram's upper end; what is longer counts as this
	latencyDigits    = 3           // that are kept of a latency

	nanosPerMicro = 1000
)

// Tally is what came out of a load. The generator's goroutines add to it under the lock; once Run
// has returned it is the caller's.
type Tally struct {
	rate       float64
	start, end time.Time // of the time in which requests are due

	mu       sync.Mutex
	all      *hdrhistogram.Histogram // of latencies in microseconds
	lag      *hdrhistogram.Histogram // from due to sent: waits for a free connection, and our own
	late     *hdrhistogram.Histogram // from due to when the pacer woke us: our own alone
	classes  map[string]*hdrhistogram.Histogram
	faults   map[string]int64
	examples map[string]string // by kind of fault: what the first one said
	done     int64             // good answers
	due      int64             // requests that the rate asked for, until it was interrupted
	inTime   int64             // of those, sent while others were still due
	elapsed  time.Duration     // from the first request due to the last answer
}

func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, latencyMicrosMax, latencyDigits)
}

func newTally(rate float64, start, end time.Time) *Tally {
	return &Tally{
		rate: rate, start: start, end: end,
		all: newHistogram(), lag: newHistogram(), late: newHistogram(),
		classes:  map[string]*hdrhistogram.Histogram{},
		faults:   map[string]int64{},
		examples: map[string]string{},
	}
}

func record(h *hdrhistogram.Histogram, took time.Duration) {
	micros := min(max(took.Nanoseconds()/nanosPerMicro, 1), latencyMicrosMax)
	// The value is in range, the only thing that RecordValue refuses.
	_ = h.RecordValue(micros)
}

// woke counts how late the pacer was.
func (t *Tally) woke(late time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	record(t.late, late)
}

// add counts one request that was due, then sent, then over.
func (t *Tally) add(class string, due, sent, over time.Time, failed *Fault) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.due++
	if sent.Before(t.end) {
		t.inTime++
	}
	if failed == nil {
		t.done++
	} else {
		if t.faults[failed.Kind]++; t.faults[failed.Kind] == 1 {
			t.examples[failed.Kind] = failed.Err.Error()
		}
		if failed.Kind != FaultTimeout {
			return
		}
	}
	if t.classes[class] == nil {
		t.classes[class] = newHistogram()
	}
	record(t.all, over.Sub(due))
	record(t.classes[class], over.Sub(due))
	record(t.lag, sent.Sub(due))
}

const (
	// microsPerMilli scales the written percentiles, as the format's plotters expect.
	microsPerMilli = 1000

	// hgrmTicks is how many percentiles are written for each halving of the distance to 100 %.
	hgrmTicks = 5
)

// WriteHgrm writes all latencies in HdrHistogram's text form, in milliseconds: what its plotters
// read as .hgrm files.
func (t *Tally) WriteHgrm(out io.Writer) error {
	_, err := t.all.PercentilesPrint(out, hgrmTicks, microsPerMilli)
	if err != nil {
		return errors.Join(errors.New("openloop: writing percentiles"), err)
	}
	return nil
}
