package control

import "fmt"

// Load is what advice is made of: means over MeterWindow, of the workers that are ready.
type Load struct {
	Workers int     // that are ready
	Threads int     // of each
	CPUs    int     // of the machine, or of our share of it
	CPU     float64 // CPUs that a worker keeps busy
	Busy    float64 // threads of a worker that run a request
	GIL     bool    // one thread of a worker can run Python code at a time
	Queued  bool    // requests wait for a thread, longer than in passing
}

// Bounds of what is worth saying.
const (
	// QueuedMin is the wait of the slowest hundredth that counts as a queue, in milliseconds.
	QueuedMin = 20.0

	boundMin   = 0.85 // of the CPUs that the Python code of a worker can use: it is bound
	blockedMax = 0.50 // below which its threads must be waiting for something else
	crowdMin   = 1.5  // threads that want to run, for the GIL to matter
	fullMin    = 0.80 // of all threads that run a request
	spareMin   = 0.5  // CPUs; with less to spare, more processes would only share them
)

// Advise says in one line what would help, or nothing: reference numbers alone do not tell
// people whether to add threads or workers.
func Advise(l Load) string {
	if l.Workers < 1 || l.Threads < 1 {
		return ""
	}
	usable := float64(l.Threads)
	if l.GIL {
		usable = 1
	}
	spare := float64(l.CPUs) - l.CPU*float64(l.Workers)
	wanted := l.Queued || l.Busy >= crowdMin && l.GIL
	switch {
	case wanted && l.CPU >= boundMin*min(usable, float64(l.CPUs)) && spare < spareMin:
		return fmt.Sprintf("the CPUs are full: the workers keep %.1f of %d busy; "+
			"more workers or threads would not help", l.CPU*float64(l.Workers), l.CPUs)
	case wanted && l.GIL && l.CPU >= boundMin:
		return fmt.Sprintf("the app is bound by the GIL: the %d threads of a worker use %.2f of "+
			"a CPU, and %.1f CPUs are idle; use more workers: gophersnake ctl scale %d",
			l.Threads, l.CPU, spare, l.Workers+max(1, int(spare)))
	case l.Queued && l.Busy >= fullMin*float64(l.Threads) && l.CPU < blockedMax*usable:
		return fmt.Sprintf("requests wait while the threads block: a worker uses %.2f of a CPU "+
			"with %.1f of %d threads busy; use more threads: --threads %d",
			l.CPU, l.Busy, l.Threads, 2*l.Threads)
	}
	return ""
}
