package control

import "time"

// The states of a server.
const (
	StateStarting = "starting" // no worker was ready yet
	StateServing  = "serving"
	StateDraining = "draining" // it accepts no clients any more
	StateStopping = "stopping"
)

// Status is the server as a whole. Durations are in seconds, waits in milliseconds.
type Status struct {
	Version   string   `json:"version"`
	PID       int      `json:"pid"`
	State     string   `json:"state"`
	Uptime    float64  `json:"uptime_seconds"`
	App       string   `json:"app"`
	Dir       string   `json:"dir"`
	Python    string   `json:"python"` // CPython 3.13.0
	GIL       string   `json:"gil"`    // off, on, or why it is on
	Listeners []string `json:"listeners"`

	Workers    int `json:"workers"`         // ready
	Wanted     int `json:"workers_wanted"`  // that there should be
	Threads    int `json:"threads"`         // of each worker
	Loops      int `json:"loops"`           // of the reactor
	Generation int `json:"generation"`      // of the app that takes new requests
	Restarts   int `json:"worker_restarts"` // workers that ended without being asked to

	Clients  int64    `json:"clients"` // connections now
	Served   uint64   `json:"requests"`
	InFlight int64    `json:"in_flight"`
	Classes  [6]int64 `json:"responses_by_class"` // [5]: 500 to 599; [0] is not used

	Queue Queue `json:"queue"`

	Stolen  uint64 `json:"stolen"`  // requests that moved from a busy worker to an idle one
	Moved   uint64 `json:"moved"`   // requests that moved because their worker died
	Panics  uint64 `json:"panics"`  // mistakes of ours that cost a client its connection
	Corrupt uint64 `json:"corrupt"` // workers that were killed for what they wrote to shared memory

	Unavailable map[string]int64 `json:"unavailable,omitempty"` // answers 503 by their reason

	LastReload *Reload `json:"last_reload,omitempty"`
	Advice     string  `json:"advice,omitempty"` // when the numbers say something
}

// Queue is the requests that wait for a thread. The waits are upper bounds, of the last minute.
type Queue struct {
	Depth int64   `json:"depth"`
	Max   int64   `json:"max"` // that may wait
	P50   float64 `json:"wait_p50_ms"`
	P99   float64 `json:"wait_p99_ms"`
}

// Reload is how the latest reload went.
type Reload struct {
	At   time.Time `json:"at"`              // when it ended
	Took float64   `json:"seconds"`         // from its start
	Why  string    `json:"error,omitempty"` // why the old generation still serves
}

// Worker is one Python process.
type Worker struct {
	ID         int     `json:"id"`
	PID        int     `json:"pid"`
	Generation int     `json:"generation"`
	State      string  `json:"state"`
	Leaving    string  `json:"leaving,omitempty"` // why it is being replaced
	Age        float64 `json:"age_seconds"`
	Served     uint64  `json:"requests"`
	InFlight   int64   `json:"in_flight"`
	Usage
}

// Usage is what a process takes of the machine; -1 stands for what is not known.
type Usage struct {
	RSS int64   `json:"rss_bytes"`
	PSS int64   `json:"pss_bytes"` // shared pages divided by those who share them
	CPU float64 `json:"cpu"`       // CPUs kept busy lately; 1.0 is one of them
}

// Threads is what every thread does now, and what waits for one.
type Threads struct {
	Workers []WorkerThreads  `json:"workers"`
	Queue   []RunningRequest `json:"queue"` // waits for any worker
}

// WorkerThreads is one worker's part of Threads.
type WorkerThreads struct {
	ID         int              `json:"id"`
	PID        int              `json:"pid"`
	Generation int              `json:"generation"`
	Threads    int              `json:"threads"`
	Running    []RunningRequest `json:"running"`
	Waiting    []RunningRequest `json:"waiting"` // for a thread of this worker
}

// RunningRequest is a request without anything that could be secret: the target ends before
// its query.
type RunningRequest struct {
	Thread  int     `json:"thread,omitempty"` // from 1; 0: not known, or none
	Method  string  `json:"method"`
	Target  string  `json:"target"`
	Seconds float64 `json:"seconds"`         // since it came, as a whole
	State   string  `json:"state,omitempty"` // waiting, running, answering, …
}

// Stack is the Python stacks of one worker, or why there are none.
type Stack struct {
	ID    int    `json:"id"`
	PID   int    `json:"pid"`
	Text  string `json:"text,omitempty"`
	Error string `json:"error,omitempty"`
}

// Done is the result of a command that changes something.
type Done struct {
	Took       float64 `json:"seconds"`
	Generation int     `json:"generation,omitempty"` // after a reload
}
