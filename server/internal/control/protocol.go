// Package control is how people and scripts talk to a running server: a Unix socket that only
// its owner and root may use, one request and one answer a connection, both JSON on one line.
//
//	place.go     where the socket is       protocol.go  requests and answers
//	socket.go    making it                 model.go     what the answers hold
//	server.go    answering                 text.go      the same for people
//	client.go    asking                    usage.go     CPU and memory of the workers
//	                                       advice.go    what the numbers suggest
//
// It knows neither the reactor nor the supervisor: both are behind Target. No answer holds a
// header, a cookie or a query string.
package control

import (
	"context"
	"encoding/json"
	"time"
)

// Limits of the socket.
const (
	RequestBytesMax = 4 << 10  // a longer request is refused
	AnswerBytesMax  = 32 << 20 // stacks of many workers are the longest answer
	ConnectionsMax  = 16       // at a time; more are told to come back

	requestMax = 5 * time.Second  // from the connection's start to the request's last byte
	writeMax   = 10 * time.Second // for the answer
	quickMax   = 15 * time.Second // to answer a question
	slowMax    = 30 * time.Minute // to do what waits for workers
	closeMax   = 1 * time.Second  // for answers that are due when the server ends

	goneEvery = 200 * time.Millisecond // a client is looked at, whether it still waits
)

// The commands.
const (
	CommandStatus  = "status"
	CommandWorkers = "workers"
	CommandThreads = "threads"
	CommandStacks  = "stacks"
	CommandReload  = "reload"
	CommandDrain   = "drain"
	CommandScale   = "scale"
	CommandRecycle = "recycle"
)

// Request is what a client sends, followed by a new line.
type Request struct {
	Command string `json:"command"`
	Worker  int    `json:"worker,omitempty"` // stacks, recycle: its id
	All     bool   `json:"all,omitempty"`    // recycle: every worker
	Count   int    `json:"count,omitempty"`  // scale: how many workers
	Exit    bool   `json:"exit,omitempty"`   // drain: and end the server
}

// Answer is what comes back, followed by a new line and the end of the connection.
type Answer struct {
	Result json.RawMessage `json:"result,omitempty"` // when there is no error
	Error  string          `json:"error,omitempty"`  // why the server did not do it
}

// Target is the server that the commands act on. Its methods are called from several goroutines.
// Their context ends with the time a command may take, and when its client has gone (but for
// Recycle).
type Target interface {
	Status(context.Context) (Status, error)
	Workers(context.Context) ([]Worker, error)
	Threads(context.Context) (Threads, error)
	// Stacks asks one worker, or all of them when worker is 0.
	Stacks(ctx context.Context, worker int) ([]Stack, error)
	// Reload returns when the new generation serves, or with the reason why the old one still
	// does. When ctx ends first the reload goes on.
	Reload(context.Context) error
	// Scale returns when the number is taken over; workers start and end afterwards.
	Scale(ctx context.Context, workers int) error
	// Recycle returns when the worker's replacement serves; 0 is every worker.
	Recycle(ctx context.Context, worker int) error
	// Drain closes the listeners and returns when no request runs any more. With exit it ends
	// the server too, and returns what the end was like.
	Drain(ctx context.Context, exit bool) error
}

// timeOf is how long a command may take on the server; its client waits a little longer.
func timeOf(command string) time.Duration {
	switch command {
	case CommandReload, CommandScale, CommandRecycle, CommandDrain:
		return slowMax
	}
	return quickMax
}
