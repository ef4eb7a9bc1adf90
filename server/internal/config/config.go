// Package config turns flags and environment variables into one plain Config. Each setting is
// named in one table (settings.go); values are read and checked here and nowhere else.
package config

import (
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// Config is everything the server is told from outside. It is plain data, complete and valid:
// no field means "default" any more.
type Config struct {
	Listen []Address
	Chdir  string // as given; relative to where the command was started
	Python string // --python, or empty: to be found

	Workers int // processes
	Threads int // interpreter threads in each
	Loops   int // gnet event loops

	Timeout         time.Duration // of the app, to begin an answer; 0: none
	SlowRequest     time.Duration // of the app, before the log shows its stacks; 0: never
	GracefulTimeout time.Duration // from SIGTERM to the last answer
	StartTimeout    time.Duration // from a worker's start to the app being imported
	LogLevel        slog.Level
	Preload         bool // one process imports the app, and workers are forks of it
	WebSocket       bool // upgrade requests bring the app its client's socket

	ControlSocket string // path of it, Off, or empty: by the directory

	Limits    Limits
	Recycling Recycling

	Notes []string // what a person should know about how values were chosen
}

// Limits bounds what clients may ask of the server.
type Limits struct {
	RequestLineBytesMax int   // more: 414
	HeadBytesMax        int   // request line and headers; more: 431
	HeadersMax          int   // header lines; more: 431
	BodyBytesMax        int64 // more: 413; 0: no limit

	// ChunkOverheadBytesMax bounds the framing of a chunked body; more: 400.
	ChunkOverheadBytesMax int64

	HeaderTimeout    time.Duration // from the first byte of a head to its last
	BodyTimeout      time.Duration // between two reads of a body
	KeepAliveTimeout time.Duration // an idle client; 0: every answer closes
	WriteTimeout     time.Duration // without progress

	ConnectionsMax int           // clients at a time
	QueueMax       int           // requests that wait for a free thread; more: 503
	QueueTimeout   time.Duration // longest wait; more: 503

	PipelineBytesMax int   // sent ahead of an answer; more: that answer is the client's last
	BufferBytesMax   int64 // memory for unfinished requests and unsent answers, of all clients
	SpoolBytesMax    int64 // temporary files for bodies and answers, of all clients
}

// Recycling says when a worker has worked long enough and is replaced; zero values never.
type Recycling struct {
	Requests       int   // answered by it
	RequestsJitter int   // at most so many more, at random for each worker
	MemoryBytes    int64 // RSS
	Lifetime       time.Duration
}

// Off is the word for none, where none is a choice.
const Off = "off"

// Address is where to listen, in the words of net.Listen.
type Address struct {
	Network string // "tcp" (every family the machine has), "tcp4" or "unix"
	Address string // "host:port" or a path
}

// Facts is what defaults depend on.
type Facts struct {
	CPUs     int // that this process may use
	FilesMax int // descriptors that it may open
	Sockets  int // that a service manager has opened for it; --listen adds to them
	Getenv   func(name string) string
}

// Error is a value that cannot be used. Its text names the setting as the user wrote it, the
// value, and what to write instead.
type Error struct {
	Setting string // "--workers" or "GOPHERSNAKE_WORKERS"
	Value   string
	Advice  string
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s %q: %s", e.Setting, e.Value, e.Advice)
}

// Flags are the settings on a command line. The texts are kept as written until Config.
type Flags struct {
	texts map[string][]string // by setting: what the command line said, in order
}

// NewFlags declares every setting in set.
func NewFlags(set *pflag.FlagSet) *Flags {
	f := &Flags{texts: map[string][]string{}}
	set.SetNormalizeFunc(Normalize)
	for i := range settings {
		s := &settings[i]
		set.VarP(&flagValue{f, s}, s.name, s.short, s.help)
		if s.alone != "" {
			set.Lookup(s.name).NoOptDefVal = s.alone
		}
	}
	return f
}

// Normalize turns the other names of flags into ours.
func Normalize(_ *pflag.FlagSet, name string) pflag.NormalizedName {
	switch name {
	case "bind": // gunicorn's word for it
		name = "listen"
	case "control":
		name = "control-socket"
	}
	return pflag.NormalizedName(name)
}

// flagValue is one setting seen by pflag.
type flagValue struct {
	flags   *Flags
	setting *setting
}

func (v *flagValue) Set(text string) error {
	v.flags.texts[v.setting.name] = append(v.flags.texts[v.setting.name], text)
	return nil
}

func (v *flagValue) String() string {
	if v.setting == nil { // pflag asks the zero value too
		return ""
	}
	return v.setting.byDefault
}

func (v *flagValue) Type() string { return v.setting.kind }

// EnvName is the environment variable of a setting.
func EnvName(setting string) string {
	return "GOPHERSNAKE_" + strings.ReplaceAll(strings.ToUpper(setting), "-", "_")
}

// Config reads every setting: flag over environment over platform variable over default. The
// first bad value ends it with an *Error.
func (f *Flags) Config(facts Facts) (*Config, error) {
	c := &Config{}
	for i := range settings {
		s := &settings[i]
		named, texts := "--"+s.name, f.texts[s.name]
		if len(texts) == 0 {
			named = EnvName(s.name)
			if text := facts.Getenv(named); text != "" {
				texts = s.split(text)
			}
		}
		if len(texts) == 0 && s.byDefault != "" {
			texts = []string{s.byDefault}
		}
		for _, text := range texts {
			if err := s.read(c, text); err != nil {
				return nil, &Error{named, text, err.Error()}
			}
		}
	}
	if err := c.complete(facts); err != nil {
		return nil, err
	}
	return c, c.check()
}

// complete fills in the defaults that depend on the machine or on other settings.
func (c *Config) complete(facts Facts) error {
	if err := c.completeListen(facts); err != nil {
		return err
	}
	if c.Workers == 0 {
		workers, err := c.workersByPlatform(facts)
		if err != nil {
			return err
		}
		c.Workers = workers
	}
	if c.Loops == 0 {
		c.Loops = max(1, min(facts.CPUs/4, LoopsMax))
	}
	if c.Limits.QueueMax == unset {
		c.Limits.QueueMax = max(queueMin, queuePerThread*c.Workers*c.Threads)
	}
	if c.Recycling.RequestsJitter == unset {
		c.Recycling.RequestsJitter = c.Recycling.Requests / jitterShare
	}
	if c.Limits.ConnectionsMax == 0 {
		// The rest stays free for answers being finished after their client's close, bodies in
		// temporary files, and the workers' sockets.
		c.Limits.ConnectionsMax = max(1, min(facts.FilesMax/4*3, ConnectionsMax))
	}
	return nil
}

// completeListen: platforms that set PORT route to every address of the container, some of
// them over IPv6 only.
func (c *Config) completeListen(facts Facts) error {
	port := facts.Getenv("PORT")
	switch {
	case len(c.Listen) > 0 && port != "":
		c.Notes = append(c.Notes, fmt.Sprintf("PORT=%q is set and not used: --listen wins", port))
	case len(c.Listen) > 0:
	case facts.Sockets > 0 && port != "":
		c.Notes = append(c.Notes, fmt.Sprintf(
			"PORT=%q is set and not used: the service manager's sockets win", port))
	case facts.Sockets > 0:
	case port != "":
		a, err := parseAddress(":" + port)
		if err != nil {
			return &Error{"PORT", port, "give a port number from 0 to 65535"}
		}
		c.Listen = []Address{a}
	default:
		c.Listen = []Address{{"tcp4", "127.0.0.1:8000"}}
	}
	return nil
}

// workersByPlatform honours WEB_CONCURRENCY. Heroku's buildpack guesses it for servers without
// threads, 2 × cores + 1; such a guess is bounded by the CPUs.
func (c *Config) workersByPlatform(facts Facts) (int, error) {
	cpus := max(1, min(facts.CPUs, WorkersMax))
	text := facts.Getenv("WEB_CONCURRENCY")
	if text == "" {
		return cpus, nil
	}
	n, err := parseCount(text, 1, WorkersMax)
	if err != nil {
		return 0, &Error{"WEB_CONCURRENCY", text, err.Error()}
	}
	if facts.Getenv("WEB_CONCURRENCY_SET_BY") == "heroku/python" && n > cpus {
		c.Notes = append(c.Notes, fmt.Sprintf(
			"WEB_CONCURRENCY=%d is a guess for servers without threads: using %d workers", n, cpus))
		return cpus, nil
	}
	return n, nil
}

// check refuses values that do not fit together.
func (c *Config) check() error {
	if n := c.Workers * c.Threads; n > threadsTotalMax {
		return &Error{"--threads", fmt.Sprint(c.Threads), fmt.Sprintf(
			"%d workers with that many are %d threads; at most %d are possible",
			c.Workers, n, threadsTotalMax)}
	}
	if l := c.Limits; l.RequestLineBytesMax > l.HeadBytesMax {
		return &Error{"--max-request-line", fmt.Sprint(l.RequestLineBytesMax), fmt.Sprintf(
			"a request line is part of the head; give at most --max-header-bytes (%d)",
			l.HeadBytesMax)}
	}
	seen := map[Address]bool{}
	for _, a := range c.Listen {
		if seen[a] && !strings.HasSuffix(a.Address, ":0") {
			return &Error{"--listen", a.Address, "is given twice"}
		}
		seen[a] = true
	}
	return nil
}
