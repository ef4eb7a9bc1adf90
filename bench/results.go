package main

import (
	"encoding/json"
	"os"
	"path/filepath"

	"gophersnake/bench/openloop"
)

// results is a whole run as it is written to disk; the page and the charts come from nothing
// else.
type results struct {
	Command string  `json:"command"` // that made it
	Machine machine `json:"machine"`
	Rounds  int     `json:"rounds"`
	Seconds int     `json:"seconds"` // of load in a cell
	Warmup  int     `json:"warmup_seconds"`

	LatencySeconds int `json:"latency_seconds,omitempty"` // of load in a cell of an open loop

	Peers     []peerNote `json:"peers"`
	Workloads []workNote `json:"workloads"`
	Cells     []cell     `json:"cells"`
	Floor     floor      `json:"floor"`
}

// floor is what a hello request costs on the side of Python; see pybridge/shim/bench.
type floor struct {
	Python      string  `json:"python,omitempty"`      // the fastest
	Pythons     int     `json:"pythons,omitempty"`     // of so many
	Shim        float64 `json:"shim_ns,omitempty"`     // all that a thread of ours does, GIL held
	Bare        float64 `json:"bare_ns,omitempty"`     // the app called from a loop of C
	Allocations *int64  `json:"allocations,omitempty"` // of the Go process
	Lacking     string  `json:"lacking,omitempty"`     // why there is none
}

// peerNote is a peer on the page; Lacking says why there is no figure of it.
type peerNote struct {
	Name      string `json:"name"`
	Version   string `json:"version"`
	Setting   string `json:"setting"`
	OneThread bool   `json:"one_thread"`
	Lacking   string `json:"lacking,omitempty"`
	Command   string `json:"command,omitempty"`
}

// workNote is a workload on the page.
type workNote struct {
	Name    string  `json:"name"`
	What    string  `json:"what"`
	Measure measure `json:"measure"`
	Threads int     `json:"threads"`
	Clients int     `json:"clients"`
	Rate    float64 `json:"rate,omitempty"`
	Bar     bool    `json:"bar,omitempty"`
}

// placement says who runs where.
type placement struct {
	name           string
	server, client string // lists of CPUs as taskset takes them; "" is all
}

const (
	shared = "shared" // server and generator on all CPUs
	apart  = "pinned" // the server on CPU 0, the generator on CPU 1
)

// cell is one figure: one peer, one workload, one round.
type cell struct {
	Round     int    `json:"round"`
	Placement string `json:"placement"`
	Workload  string `json:"workload"`
	Peer      string `json:"peer"`
	Failure   string `json:"failure,omitempty"` // why there is no figure

	Requests     int64            `json:"requests,omitempty"`
	Seconds      float64          `json:"seconds,omitempty"`
	PerSecond    float64          `json:"per_second,omitempty"`
	CPUMicros    float64          `json:"cpu_us,omitempty"`        // of the server, a request
	ServerCPU    float64          `json:"server_cpu,omitempty"`    // cores in use
	GeneratorCPU float64          `json:"generator_cpu,omitempty"` // cores in use
	OtherCPU     float64          `json:"other_cpu,omitempty"`     // cores that others used
	PSSBytes     int64            `json:"pss_bytes,omitempty"`     // after the load
	StartMillis  float64          `json:"start_ms,omitempty"`
	Starved      bool             `json:"starved,omitempty"`  // no answer for a new client
	Unclosed     bool             `json:"unclosed,omitempty"` // leaves out close(); see contract.go
	Errors       map[string]int64 `json:"errors,omitempty"`
	Latency      *openloop.Report `json:"latency,omitempty"`
}

func readResults(path string) (*results, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var r results
	return &r, json.Unmarshal(text, &r)
}

// write replaces the file at once, so that an interrupted run leaves a whole one.
func (r *results) write(path string) error {
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", append(text, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
