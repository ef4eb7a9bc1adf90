package config

import (
	"strings"
	"time"
)

// Bounds of the settings themselves. Threads and loops are bounded by the lanes' format.
const (
	WorkersMax     = 512
	ThreadsMax     = 256 // in one worker
	LoopsMax       = 64
	ConnectionsMax = 1 << 20
	ListenersMax   = 64

	threadsTotalMax = 1 << 14
	queueMin        = 2048
	queuePerThread  = 64
	queueMax        = 1 << 20
	durationMax     = 24 * time.Hour
	headBytesMin    = 256
	headBytesMax    = 1 << 20
	headersMax      = 10_000
	bodyBytesMax    = 1 << 40

	pipelineBytesMax = 1 << 30
	buffersBytesMin  = 1 << 20
	spaceBytesMax    = 1 << 50

	requestsMax = 1 << 30
	jitterShare = 10 // of --max-requests, when no jitter is given

	unset = -1 // where 0 has a meaning of its own
)

// setting is one row of the table: everything about a setting is in its row.
type setting struct {
	name, short string
	kind        string // what to write, for the help
	byDefault   string // as a user would write it; empty: see complete
	help        string
	alone       string // what the flag means without a value; empty: it needs one
	list        bool   // the environment variable holds several, separated by commas
	read        func(c *Config, text string) error
}

// split parts an environment variable into the values a command line would have given.
func (s *setting) split(text string) []string {
	if s.list {
		return strings.Split(text, ",")
	}
	return []string{text}
}

// settings is the table, in the order of the help; it is never written to.
var settings = [...]setting{
	{name: "listen", short: "b", kind: "ADDR", list: true, read: readListen,
		help: "where to listen: HOST:PORT, :PORT or unix:PATH; repeatable; also --bind " +
			"(default 127.0.0.1:8000, or every address at $PORT)"},
	{name: "chdir", short: "C", kind: "DIR", byDefault: ".",
		help: "go there first; other relative paths count from there",
		read: text(func(c *Config) *string { return &c.Chdir })},
	{name: "python", kind: "PATH",
		help: "interpreter (default: beside gophersnake, $VIRTUAL_ENV, .venv, venv, python3)",
		read: text(func(c *Config) *string { return &c.Python })},
	{name: "workers", short: "w", kind: "N",
		help: "Python processes (default $WEB_CONCURRENCY, or one for each CPU)",
		read: autoCount(WorkersMax, func(c *Config) *int { return &c.Workers })},
	{name: "threads", short: "t", kind: "N", byDefault: "4",
		help: "threads in each worker",
		read: count(1, ThreadsMax, func(c *Config) *int { return &c.Threads })},
	{name: "loops", kind: "N",
		help: "event loops (default one for four CPUs)",
		read: autoCount(LoopsMax, func(c *Config) *int { return &c.Loops })},
	{name: "timeout", kind: "DUR", byDefault: "30s",
		help: "time for the app to begin an answer; 0 is none",
		read: duration(0, func(c *Config) *time.Duration { return &c.Timeout })},
	{name: "slow-request", kind: "DUR", byDefault: "5s",
		help: "time after which the log shows where an app hangs; 0 is never",
		read: duration(0, func(c *Config) *time.Duration { return &c.SlowRequest })},
	{name: "graceful-timeout", kind: "DUR", byDefault: "25s",
		help: "time for running requests when stopping",
		read: duration(0, func(c *Config) *time.Duration { return &c.GracefulTimeout })},
	{name: "start-timeout", kind: "DUR", byDefault: "60s",
		help: "time for a worker to import the app",
		read: duration(1, func(c *Config) *time.Duration { return &c.StartTimeout })},
	{name: "max-requests", kind: "N", byDefault: "0",
		help: "replace a worker after so many requests; 0 is never",
		read: count(0, requestsMax, func(c *Config) *int { return &c.Recycling.Requests })},
	{name: "max-requests-jitter", kind: "N", byDefault: "auto", read: readJitter,
		help: "and up to so many more, at random; auto is a tenth"},
	{name: "max-rss", kind: "SIZE", byDefault: "0",
		help: "replace a worker that has more in memory; 0 is no limit",
		read: size(0, spaceBytesMax, func(c *Config, n int64) { c.Recycling.MemoryBytes = n })},
	{name: "max-lifetime", kind: "DUR", byDefault: "0",
		help: "replace a worker after so long, and up to a tenth more; 0 is never",
		read: duration(0, func(c *Config) *time.Duration { return &c.Recycling.Lifetime })},
	{name: "preload", kind: "on|off", byDefault: "off", alone: "on",
		read: toggle(func(c *Config) *bool { return &c.Preload }),
		help: "import the app once and fork the workers: less memory, quick starts"},
	{name: "websocket", kind: "on|off", byDefault: "off", alone: "on",
		read: toggle(func(c *Config) *bool { return &c.WebSocket }),
		help: "give apps that upgrade a WebSocket their client's socket"},
	{name: "log-level", kind: "LEVEL", byDefault: "info", read: readLogLevel,
		help: "least level to log: debug, info, warning or error"},
	{name: "control-socket", kind: "PATH|off",
		help: "where gophersnake ctl reaches the server (default: found by the directory); off " +
			"is none; also --control",
		read: text(func(c *Config) *string { return &c.ControlSocket })},
	{name: "max-request-line", kind: "SIZE", byDefault: "8KiB",
		help: "longest request line",
		read: size(headBytesMin, headBytesMax, func(c *Config, n int64) {
			c.Limits.RequestLineBytesMax = int(n)
		})},
	{name: "max-header-bytes", kind: "SIZE", byDefault: "32KiB",
		help: "largest request head",
		read: size(headBytesMin, headBytesMax, func(c *Config, n int64) {
			c.Limits.HeadBytesMax = int(n)
		})},
	{name: "max-headers", kind: "N", byDefault: "100",
		help: "most header lines",
		read: count(1, headersMax, func(c *Config) *int { return &c.Limits.HeadersMax })},
	{name: "max-body", kind: "SIZE", byDefault: "100MiB",
		help: "largest request body; 0 is no limit",
		read: size(0, bodyBytesMax, func(c *Config, n int64) { c.Limits.BodyBytesMax = n })},
	{name: "max-chunk-overhead", kind: "SIZE", byDefault: "128KiB",
		help: "most framing of a chunked body beyond one byte for each byte of it",
		read: size(0, pipelineBytesMax, func(c *Config, n int64) {
			c.Limits.ChunkOverheadBytesMax = n
		})},
	{name: "header-timeout", kind: "DUR", byDefault: "10s",
		help: "time for a whole request head",
		read: duration(1, func(c *Config) *time.Duration { return &c.Limits.HeaderTimeout })},
	{name: "body-timeout", kind: "DUR", byDefault: "30s",
		help: "time between two pieces of a request body",
		read: duration(1, func(c *Config) *time.Duration { return &c.Limits.BodyTimeout })},
	{name: "keep-alive", kind: "DUR", byDefault: "75s",
		help: "time an idle client stays; 0 closes after each answer",
		read: duration(0, func(c *Config) *time.Duration { return &c.Limits.KeepAliveTimeout })},
	{name: "write-timeout", kind: "DUR", byDefault: "60s",
		help: "time without progress while answering",
		read: duration(1, func(c *Config) *time.Duration { return &c.Limits.WriteTimeout })},
	{name: "max-connections", kind: "N",
		help: "most clients at a time (default three quarters of the descriptor limit)",
		read: autoCount(ConnectionsMax, func(c *Config) *int { return &c.Limits.ConnectionsMax })},
	{name: "max-pipelined", kind: "SIZE", byDefault: "256KiB",
		help: "most bytes a client may send ahead of the answer at hand",
		read: size(0, pipelineBytesMax, func(c *Config, n int64) {
			c.Limits.PipelineBytesMax = int(n)
		})},
	{name: "max-buffers", kind: "SIZE", byDefault: "64MiB",
		help: "most memory for unfinished requests and unsent answers, of all clients",
		read: size(buffersBytesMin, spaceBytesMax, func(c *Config, n int64) {
			c.Limits.BufferBytesMax = n
		})},
	{name: "max-spool", kind: "SIZE", byDefault: "4GiB",
		help: "most room in temporary files for bodies and for answers that are read slowly",
		read: size(0, spaceBytesMax, func(c *Config, n int64) { c.Limits.SpoolBytesMax = n })},
	{name: "queue", kind: "N", byDefault: "auto", read: readQueue,
		help: "most requests that wait for a thread; auto is 64 for each thread, at least 2048"},
	{name: "queue-timeout", kind: "DUR", byDefault: "10s",
		help: "longest wait for a thread",
		read: duration(1, func(c *Config) *time.Duration { return &c.Limits.QueueTimeout })},
}
