package config

import (
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

// load reads a command line on a machine with 8 CPUs, 1024 descriptors and the environment env.
func load(t *testing.T, env map[string]string, args ...string) (*Config, error) {
	t.Helper()
	set := pflag.NewFlagSet("test", pflag.ContinueOnError)
	flags := NewFlags(set)
	if err := set.Parse(args); err != nil {
		t.Fatalf("%q: %v", args, err)
	}
	return flags.Config(Facts{CPUs: 8, FilesMax: 1024,
		Getenv: func(name string) string { return env[name] }})
}

func TestDefaults(t *testing.T) {
	got, err := load(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		Listen: []Address{{"tcp4", "127.0.0.1:8000"}}, Chdir: ".",
		Workers: 8, Threads: 4, Loops: 2,
		Timeout: 30 * time.Second, GracefulTimeout: 25 * time.Second, SlowRequest: 5 * time.Second,
		StartTimeout: time.Minute, LogLevel: slog.LevelInfo,
		Limits: Limits{RequestLineBytesMax: 8 << 10, HeadBytesMax: 32 << 10, HeadersMax: 100,
			BodyBytesMax: 100 << 20, ChunkOverheadBytesMax: 128 << 10,
			HeaderTimeout: 10 * time.Second,
			BodyTimeout:   30 * time.Second, KeepAliveTimeout: 75 * time.Second,
			WriteTimeout: time.Minute, ConnectionsMax: 768, QueueMax: 2048,
			PipelineBytesMax: 256 << 10, BufferBytesMax: 64 << 20, SpoolBytesMax: 4 << 30,
			QueueTimeout: 10 * time.Second},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// pick reads one field of the result as text; each case of a table is one line.
func pick(field string) func(*Config) string {
	return func(c *Config) string {
		v := reflect.ValueOf(*c)
		for name := range strings.SplitSeq(field, ".") {
			v = v.FieldByName(name)
		}
		return fmt.Sprint(v.Interface())
	}
}

func TestWhichSourceWins(t *testing.T) {
	for _, c := range []struct {
		field string
		env   string // NAME=VALUE separated by spaces
		args  string
		want  string
	}{
		{"Workers", "", "--workers 3", "3"},
		{"Workers", "", "-w 3", "3"},
		{"Workers", "", "-w3", "3"},
		{"Workers", "", "-w 3 -w 5", "5"},
		{"Workers", "", "-w auto", "8"},
		{"Workers", "GOPHERSNAKE_WORKERS=5", "", "5"},
		{"Workers", "GOPHERSNAKE_WORKERS=5", "-w 3", "3"},
		{"Workers", "GOPHERSNAKE_WORKERS=auto WEB_CONCURRENCY=2", "", "2"},
		{"Workers", "WEB_CONCURRENCY=2", "", "2"},
		{"Workers", "WEB_CONCURRENCY=17", "", "17"},
		{"Workers", "WEB_CONCURRENCY=17 WEB_CONCURRENCY_SET_BY=heroku/python", "", "8"},
		{"Workers", "WEB_CONCURRENCY=2 WEB_CONCURRENCY_SET_BY=heroku/python", "", "2"},
		{"Workers", "WEB_CONCURRENCY=x", "-w 3", "3"},
		{"Threads", "GOPHERSNAKE_THREADS=9", "", "9"},
		{"Loops", "", "--loops 3", "3"},
		{"Chdir", "", "-C /srv", "/srv"},
		{"Python", "GOPHERSNAKE_PYTHON=python3.12", "", "python3.12"},
		{"GracefulTimeout", "GOPHERSNAKE_GRACEFUL_TIMEOUT=4", "", "4s"},
		{"LogLevel", "", "--log-level debug", "DEBUG"},
		{"Preload", "", "", "false"},
		{"Preload", "", "--preload", "true"},
		{"Preload", "GOPHERSNAKE_PRELOAD=on", "", "true"},
		{"Preload", "GOPHERSNAKE_PRELOAD=on", "--preload=off", "false"},
		{"ControlSocket", "", "--control off", "off"},
		{"ControlSocket", "GOPHERSNAKE_CONTROL_SOCKET=/s", "", "/s"},
		{"Listen", "", "--listen 127.0.0.1:0", "[{tcp4 127.0.0.1:0}]"},
		{"Listen", "", "-b :80 --bind unix:/s", "[{tcp :80} {unix /s}]"},
		{"Listen", "GOPHERSNAKE_LISTEN=:80,unix:/s", "", "[{tcp :80} {unix /s}]"},
		{"Listen", "GOPHERSNAKE_LISTEN=:80", "-b :81", "[{tcp :81}]"},
		{"Listen", "PORT=5000", "", "[{tcp :5000}]"},
		{"Listen", "PORT=5000", "-b :81", "[{tcp :81}]"},
		{"Listen", "PORT=x", "-b :81", "[{tcp :81}]"},
		{"Notes", "PORT=5000", "-b :81", `[PORT="5000" is set and not used: --listen wins]`},
		{"Listen", "PORT=", "", "[{tcp4 127.0.0.1:8000}]"},
		{"Limits.QueueMax", "", "-w 1 -t 1", "2048"},
		{"Limits.QueueMax", "", "--queue 0", "0"},
		{"Recycling", "", "--max-requests 1000", "{1000 100 0 0s}"},
		{"Recycling", "", "--max-requests 1000 --max-requests-jitter 0", "{1000 0 0 0s}"},
		{"Recycling", "", "--max-requests-jitter 7 --max-requests 5", "{5 7 0 0s}"},
		{"Recycling", "GOPHERSNAKE_MAX_RSS=1GiB", "--max-lifetime 1h", "{0 0 1073741824 1h0m0s}"},
		{"Limits.ConnectionsMax", "", "--max-connections 5", "5"},
		{"Limits.PipelineBytesMax", "", "--max-pipelined 1KiB", "1024"},
		{"Limits.BufferBytesMax", "", "--max-buffers 1MiB", "1048576"},
		{"Limits.SpoolBytesMax", "", "--max-spool 0", "0"},
		{"Limits.KeepAliveTimeout", "", "--keep-alive 0", "0s"},
		{"Limits.BodyBytesMax", "", "--max-body 0", "0"},
		{"Limits.HeadBytesMax", "", "--max-header-bytes 64KiB", "65536"},
	} {
		env := map[string]string{}
		for pair := range strings.FieldsSeq(c.env) {
			name, value, _ := strings.Cut(pair, "=")
			env[name] = value
		}
		config, err := load(t, env, strings.Fields(c.args)...)
		if err != nil {
			t.Errorf("%s %s: %v", c.env, c.args, err)
			continue
		}
		if got := pick(c.field)(config); got != c.want {
			t.Errorf("%s %s: %s is %s, want %s", c.env, c.args, c.field, got, c.want)
		}
	}
}

// Sockets of a service manager stand in for the default; what the user asks for is added.
func TestSocketsOfAServiceManager(t *testing.T) {
	for _, c := range []struct {
		port, args  string
		want, notes string
	}{
		{"", "", "[]", "[]"},
		{"5000", "", "[]",
			`[PORT="5000" is set and not used: the service manager's sockets win]`},
		{"", "-b :81", "[{tcp :81}]", "[]"},
	} {
		set := pflag.NewFlagSet("test", pflag.ContinueOnError)
		flags := NewFlags(set)
		if err := set.Parse(strings.Fields(c.args)); err != nil {
			t.Fatal(err)
		}
		got, err := flags.Config(Facts{CPUs: 1, FilesMax: 1024, Sockets: 2,
			Getenv: func(name string) string { return map[string]string{"PORT": c.port}[name] }})
		if err != nil {
			t.Fatal(err)
		}
		if listens, notes := fmt.Sprint(got.Listen), fmt.Sprint(got.Notes); listens != c.want ||
			notes != c.notes {
			t.Errorf("PORT=%s %s: got %s %s, want %s %s", c.port, c.args, listens, notes,
				c.want, c.notes)
		}
	}
}

func TestBadValuesSayWhatToDo(t *testing.T) {
	for _, c := range []struct {
		env, args, want string
	}{
		{"", "-w 0", `--workers "0": give a whole number from 1 to 512`},
		{"", "-w two", `--workers "two": give a whole number from 1 to 512`},
		{"GOPHERSNAKE_WORKERS=-1", "", `GOPHERSNAKE_WORKERS "-1": give a whole number`},
		{"WEB_CONCURRENCY=many", "", `WEB_CONCURRENCY "many": give a whole number`},
		{"PORT=http", "", `PORT "http": give a port number from 0 to 65535`},
		{"PORT=65536", "", `PORT "65536": give a port number`},
		{"", "-t 0", `--threads "0": give`},
		{"", "-w 512 -t 256", `--threads "256": 512 workers with that many are 131072`},
		{"", "--preload=maybe", `--preload "maybe": write on or off`},
		{"", "--slow-request soon", `--slow-request "soon": give a time such as 30s`},
		{"", "--timeout soon", `--timeout "soon": give a time such as 30s`},
		{"", "--timeout -1s", `--timeout "-1s": give a time up to 24h`},
		{"", "--timeout 1e99", `--timeout "1e99": give a time up to 24h`},
		{"", "--timeout NaN", `--timeout "NaN": give a time such as`},
		{"", "--start-timeout 0", `--start-timeout "0": give a time above 0`},
		{"", "--max-body lots", `--max-body "lots": give a size such as 100MiB`},
		{"", "--max-body 1TiB", `--max-body "1TiB": give a size such as`},
		{"", "--max-header-bytes 1", `--max-header-bytes "1": give a size from 256`},
		{"", "--max-request-line 64KiB", `--max-request-line "65536": a request line is part`},
		{"", "--listen 8000", `--listen "8000": give HOST:PORT`},
		{"", "--listen localhost", `--listen "localhost": give HOST:PORT`},
		{"", "--listen :99999", `--listen ":99999": give HOST:PORT`},
		{"", "--listen http://x:80", `--listen "http://x:80": give HOST:PORT`},
		{"", "--listen ::1:80", `--listen "::1:80": give HOST:PORT`},
		{"", "--listen unix:", `--listen "unix:": give unix: and the path`},
		{"", "--listen unix:@x", `--listen "unix:@x": give unix: and the path`},
		{"", "--listen unix:/" + strings.Repeat("x", 107), "the path has 108 bytes"},
		{"GOPHERSNAKE_LISTEN=:80,x", "", `GOPHERSNAKE_LISTEN "x": give HOST:PORT`},
		{"", "-b :80 -b :80", `--listen ":80": is given twice`},
		{"", "--log-level loud", `--log-level "loud": give debug, info, warning or error`},
		{"", "--python=", `--python "": give a path`},
	} {
		name, value, _ := strings.Cut(c.env, "=")
		_, err := load(t, map[string]string{name: value}, strings.Fields(c.args)...)
		var bad *Error
		if !errors.As(err, &bad) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %s: got %v, want %q", c.env, c.args, err, c.want)
		}
	}
}

func TestDurations(t *testing.T) {
	for text, want := range map[string]time.Duration{"30s": 30 * time.Second,
		"30": 30 * time.Second, "1m30s": 90 * time.Second, "250ms": 250 * time.Millisecond,
		"0": 0, "2.5": 2500 * time.Millisecond} {
		if got, err := parseDuration(text); err != nil || got != want {
			t.Errorf("parseDuration(%q) = %v, %v, want %v", text, got, err, want)
		}
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "512": 512, "512B": 512, "8KB": 8000,
		"8KiB": 8192, "8k": 8192, "100MiB": 100 << 20, "1 GiB": 1 << 30, "2gb": 2e9} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("parseSize(%q) = %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "KiB", "1.5MiB", "-", "1KK", "1 bits", "99999999999GiB"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("parseSize(%q) = %v, want an error", text, got)
		}
	}
}

func TestAddresses(t *testing.T) {
	for text, want := range map[string]Address{
		"127.0.0.1:8000": {"tcp4", "127.0.0.1:8000"},
		"0.0.0.0:80":     {"tcp4", "0.0.0.0:80"},
		"[::]:80":        {"tcp", "[::]:80"},
		"[::1]:0":        {"tcp", "[::1]:0"},
		":080":           {"tcp", ":80"},
		"localhost:1":    {"tcp", "localhost:1"},
		"unix:s.sock":    {"unix", "s.sock"},
	} {
		if got, err := parseAddress(text); err != nil || got != want {
			t.Errorf("parseAddress(%q) = %v, %v, want %v", text, got, err, want)
		}
	}
}

// One row, one setting: a name used twice would make one of them unreachable.
func TestTableHasNoDoubles(t *testing.T) {
	var names []string
	for _, s := range settings {
		names = append(names, s.name)
		if s.short != "" {
			names = append(names, s.short)
		}
		if s.help == "" || s.kind == "" {
			t.Errorf("--%s has no help", s.name)
		}
	}
	slices.Sort(names)
	if unique := slices.Compact(slices.Clone(names)); len(unique) != len(names) {
		t.Errorf("a name appears twice in %q", names)
	}
}
