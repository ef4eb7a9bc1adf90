package main

import (
	"net"
	"strconv"

	"gophersnake/loop"
	"gophersnake/pybridge"
	"gophersnake/server/internal/supervise"
)

// bodyArenaBytes is what one lane has for request bodies that do not fit their slot.
const bodyArenaBytes = 4 << 20

// joined is the reactor and the worker processes as one engine.
type joined struct {
	*loop.Reactor
	listeners []net.Listener
	worker    pybridge.Config
	workers   roll
	watch     *watch
	templates *templates // nil without --preload
}

// newEngine joins the reactor (package loop) and the worker processes (package pybridge).
func newEngine(spec engineSpec) (engine, error) {
	c := spec.config
	limits := loop.DefaultLimits()
	limits.RequestLineBytesMax = c.Limits.RequestLineBytesMax
	limits.HeadBytesMax = c.Limits.HeadBytesMax
	limits.HeaderCountMax = c.Limits.HeadersMax
	limits.TrailerBytesMax = c.Limits.HeadBytesMax // trailers are header lines too
	limits.BodyBytesMax = c.Limits.BodyBytesMax
	limits.ChunkOverheadBytesMax = c.Limits.ChunkOverheadBytesMax
	late := newWatch(spec)
	r, err := loop.New(loop.Config{
		Loops: c.Loops, Limits: limits,
		HeaderTimeout: c.Limits.HeaderTimeout, BodyTimeout: c.Limits.BodyTimeout,
		KeepAlive: c.Limits.KeepAliveTimeout, WriteTimeout: c.Limits.WriteTimeout,
		QueueTimeout: c.Limits.QueueTimeout, RequestTimeout: c.Timeout,
		SlowRequest: c.SlowRequest, HungAfter: hungAfter, Overdue: late.overdue,
		ConnectionsMax: c.Limits.ConnectionsMax, QueueMax: c.Limits.QueueMax,
		PipelineBytesMax: c.Limits.PipelineBytesMax,
		BufferBytesMax:   c.Limits.BufferBytesMax, SpoolBytesMax: c.Limits.SpoolBytesMax,
		WebSocket: c.WebSocket, Log: spec.log,
	})
	if err != nil {
		return nil, err
	}
	e := &joined{Reactor: r, watch: late, listeners: spec.listeners,
		workers: roll{byID: map[int]*pybridge.Worker{}}}
	e.worker = pybridge.Config{
		Python: spec.python.Path, App: spec.app.name, Dir: spec.dir,
		Multiprocess: c.Workers > 1,
		Sizes: pybridge.Sizes{
			Lanes: c.Loops, Threads: c.Threads, HeadBytesMax: limits.HeadBytesMax,
			HeaderCountMax: limits.HeaderCountMax, BodyArenaBytes: bodyArenaBytes,
		},
		Output: spec.workerLine,
	}
	if spec.app.builtIn {
		e.worker.App = pybridge.DemoApp
	}
	if c.Preload {
		e.templates = newTemplates(spec, &e.worker)
	}
	late.begin(e)
	for _, ln := range spec.listeners {
		e.worker.Listeners = append(e.worker.Listeners, describe(ln.Addr()))
	}
	return e, nil
}

// describe is what environ says of a listener. SERVER_NAME and SERVER_PORT are never empty,
// also on a Unix socket (PEP 3333).
func describe(a net.Addr) pybridge.Listener {
	l := pybridge.Listener{ServerName: "localhost", ServerPort: "80", Scheme: "http"}
	if tcp, ok := a.(*net.TCPAddr); ok {
		l.ServerName, l.ServerPort = tcp.IP.String(), strconv.Itoa(tcp.Port)
	}
	return l
}

// Start starts a worker process.
func (e *joined) Start(id, generation int) (supervise.Worker, error) {
	start := func() (*pybridge.Worker, error) { return pybridge.Start(id, &e.worker) }
	if e.templates != nil {
		start = func() (*pybridge.Worker, error) { return e.templates.start(id, generation) }
	}
	w, err := start()
	if err != nil {
		return nil, err
	}
	e.workers.add(w)
	return worker{w}, nil
}

// Open begins to accept from one of the listeners that the engine was made with.
func (e *joined) Open(ln net.Listener) error {
	for i, known := range e.listeners {
		if known == ln {
			e.Reactor.Open(ln, uint16(i))
		}
	}
	return nil
}
