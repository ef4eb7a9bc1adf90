package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// The servers. Each runs one interpreter with as many threads as the workload says, in the
// setting that its own documentation calls best, with its limits on clients out of the way,
// without access log.

// ours is the peer that all others are compared with.
const ours = "gophersnake"

// The floors: what a server without Python does here.
const (
	reactor   = "reactor"
	nginxName = "nginx"
)

// clientsMax is what servers with a limit on clients are told: more than any workload brings.
const clientsMax = 20_000

// idleSeconds is how long a client may keep a connection without a request.
const idleSeconds = 75

// peer is a server to measure.
type peer struct {
	name     string
	kit      string // bench/peers/<kit>.txt and a virtual environment of its own; "" has none
	dist     string // whose version is reported; "" asks the command of version
	setting  string // what was chosen and why, for the page
	one      bool   // has one thread for the app, whatever the workload says
	fixed    bool   // runs no Python: answers only the fixed workloads, and is nobody's rival
	stranger bool   // as root, it enters the repository as another user
	alone    bool   // is asked OPTIONS * instead of GET /, which gophersnake answers without Python
	needs    []need
	command  func(s *site) []string
	prepare  func(s *site) error // writes what the command needs
}

// site is where and how a peer is started.
type site struct {
	root    string // of the repository
	venv    string
	apps    string // bench/apps
	dir     string // the server's own, empty
	module  string // of the app, which is its `app`
	port    int
	threads int
	backlog int
}

func (s *site) address() string         { return "127.0.0.1:" + strconv.Itoa(s.port) }
func (s *site) bin(name string) string  { return filepath.Join(s.venv, "bin", name) }
func (s *site) file(name string) string { return filepath.Join(s.dir, name) }

// launcher starts a server by bench/apps/launch.py.
func launcher(name string) func(*site) []string {
	return func(s *site) []string {
		return []string{s.bin("python"), filepath.Join(s.apps, "launch.py"), name, s.module,
			strconv.Itoa(s.port), strconv.Itoa(s.threads), strconv.Itoa(s.backlog)}
	}
}

func peers() []peer {
	headers := need{"Python.h", "the headers of Python", "apt install python3-dev"}
	return []peer{
		{name: ours, kit: "gophersnake", setting: "defaults", command: gophersnake},
		{name: "fastpysgi", kit: "fastpysgi", dist: "fastpysgi", one: true,
			setting: "TCP_NODELAY", command: launcher("fastpysgi")},
		{name: "fastwsgi", kit: "fastwsgi", dist: "fastwsgi", one: true,
			setting: "TCP_NODELAY", command: launcher("fastwsgi"), needs: []need{headers}},
		{name: "bjoern", kit: "bjoern", dist: "bjoern", one: true, setting: "defaults",
			command: launcher("bjoern"), needs: []need{headers,
				{"ev.h", "the headers of libev", "apt install libev-dev"}}},
		{name: "granian", kit: "granian", dist: "granian",
			setting: "HTTP/1 only, as many blocking threads as the workload says, flushes joined for " +
				"pipelines",
			command: func(s *site) []string { return granian(s, s.threads) }},
		{name: "granian-1", kit: "granian", dist: "granian", one: true,
			setting: "the same with one blocking thread: its own benchmarks for short requests",
			command: func(s *site) []string { return granian(s, 1) }},
		{name: "gunicorn-gthread", kit: "gunicorn", dist: "gunicorn",
			setting: "C parser, worker files in memory", command: func(s *site) []string {
				return gunicorn(s, "gthread", "--threads", strconv.Itoa(s.threads))
			}},
		{name: "gunicorn-gevent", kit: "gunicorn", dist: "gunicorn",
			setting: "the same; greenlets, no bound but the clients'",
			command: func(s *site) []string { return gunicorn(s, "gevent") }},
		{name: "uwsgi-http", kit: "uwsgi", dist: "uWSGI", needs: []need{headers},
			setting: "`--http-socket`, which closes after each answer; told to say so",
			command: func(s *site) []string {
				return append(uwsgi(s, "--http-socket"), "--add-header", "Connection: close")
			}},
		{name: "uwsgi-http11", kit: "uwsgi", dist: "uWSGI", needs: []need{headers},
			setting: "`--http11-socket`, where a kept connection holds a thread",
			command: func(s *site) []string { return uwsgi(s, "--http11-socket") }},
		{name: "waitress", kit: "waitress", dist: "waitress", setting: "poll instead of select",
			command: launcher("waitress")},
		{name: "cheroot", kit: "cheroot", dist: "cheroot",
			setting: "keep-alive for all clients", command: launcher("cheroot")},
		{name: "mod_wsgi", kit: "mod_wsgi", dist: "mod_wsgi-standalone",
			setting: "mod_wsgi-express, daemon mode, endless keep-alive",
			needs:   []need{headers}, command: modWSGI, prepare: prepareModWSGI, stranger: true},
		{name: "caddysnake", kit: "caddysnake", dist: "caddysnake",
			setting: "one worker process; threads are its own choice", command: caddysnake},
		{name: reactor, kit: "gophersnake", fixed: true, alone: true,
			setting: "gophersnake's reactor by itself, a floor: `OPTIONS *`, which no app sees",
			command: gophersnake},
		{name: nginxName, fixed: true, setting: "one worker; `return 200` and static files",
			needs:   []need{{"nginx", "nginx", "apt install nginx-light"}},
			command: nginx, prepare: prepareNginx},
	}
}

func gophersnake(s *site) []string {
	return []string{filepath.Join(s.root, "bin", "gophersnake"), s.module + ":app",
		"--listen", s.address(), "--workers", "1", "--threads", strconv.Itoa(s.threads),
		"--chdir", s.apps, "--python", s.bin("python"), "--log-level", "warning"}
}

func granian(s *site, threads int) []string {
	return []string{s.bin("granian"), "--interface", "wsgi", "--host", "127.0.0.1",
		"--port", strconv.Itoa(s.port), "--workers", "1",
		"--blocking-threads", strconv.Itoa(threads), "--http", "1", "--no-ws",
		"--http1-pipeline-flush",
		"--backlog", strconv.Itoa(s.backlog), "--backpressure", strconv.Itoa(clientsMax),
		"--log-level", "warning", s.module + ":app"}
}

func gunicorn(s *site, class string, more ...string) []string {
	args := []string{s.bin("gunicorn"), "--bind", s.address(), "--workers", "1",
		"--worker-class", class, "--worker-connections", strconv.Itoa(clientsMax),
		"--keep-alive", strconv.Itoa(idleSeconds), "--backlog", strconv.Itoa(s.backlog),
		"--worker-tmp-dir", "/dev/shm", "--http-parser", "fast", "--no-control-socket",
		"--log-level", "warning"}
	return append(append(args, more...), s.module+":app")
}

func uwsgi(s *site, socket string) []string {
	return []string{s.bin("uwsgi"), socket, s.address(), "--master", "--processes", "1",
		"--enable-threads", "--threads", strconv.Itoa(s.threads), "--single-interpreter",
		"--need-app", "--die-on-term", "--disable-logging", "--tcp-nodelay",
		"--so-keepalive", "--listen", strconv.Itoa(s.backlog),
		"--max-fd", strconv.Itoa(clientsMax), "--virtualenv", s.venv,
		"--pythonpath", s.apps, "--module", s.module + ":app"}
}

// modWSGIClients is how many clients Apache's own threads serve at a time; idle ones take none.
const modWSGIClients = 1_024

// apacheUser is whom Apache's children run as when root starts it: it refuses root for them.
const apacheUser = "www-data"

func modWSGI(s *site) []string {
	args := []string{s.bin("mod_wsgi-express"), "start-server", "--application-type", "module",
		s.module, "--host", "127.0.0.1", "--port", strconv.Itoa(s.port), "--processes", "1",
		"--threads", strconv.Itoa(s.threads), "--max-clients", strconv.Itoa(modWSGIClients),
		"--initial-workers", "1.0", "--minimum-spare-workers", "0.05",
		"--maximum-spare-workers", "1.0", "--daemon-backlog", strconv.Itoa(s.backlog),
		"--keep-alive-timeout", strconv.Itoa(idleSeconds), "--chunked-request",
		"--limit-request-body", strconv.Itoa(100 << 20), "--server-backlog",
		strconv.Itoa(s.backlog), "--server-root", s.file("root"), "--python-path", s.apps,
		"--locale", "C.UTF-8", "--log-to-terminal", "--include-file", s.file("more.conf")}
	if os.Getuid() == 0 {
		args = append(args, "--user", apacheUser, "--group", apacheUser)
	}
	return args
}

func prepareModWSGI(s *site) error {
	return os.WriteFile(s.file("more.conf"), fmt.Appendf(nil,
		"MaxKeepAliveRequests 0\nAsyncRequestWorkerFactor %d\n", clientsMax/modWSGIClients), 0o644)
}

func caddysnake(s *site) []string {
	return []string{s.bin("caddysnake"), "--server-type", "wsgi",
		"--app", s.module + ":app", "--listen", s.address(), "--workers", "1"}
}

func nginx(s *site) []string {
	return []string{"nginx", "-c", s.file("nginx.conf"), "-p", s.dir}
}

func prepareNginx(s *site) error {
	for name, size := range map[string]int{"1k": 1_000, "10k": 10_000, "100k": 100_000} {
		body := strings.Repeat("x", size)
		if err := os.WriteFile(s.file(name), []byte(body), 0o644); err != nil {
			return err
		}
	}
	user := ""
	if os.Getuid() == 0 {
		user = "user root;"
	}
	return os.WriteFile(s.file("nginx.conf"), fmt.Appendf(nil, `%s
daemon off; worker_processes 1; pid %s/pid; error_log stderr error;
worker_rlimit_nofile %d;
events { worker_connections %d; }
http {
    access_log off; sendfile on; tcp_nopush on; open_file_cache max=16;
    default_type text/plain;
    keepalive_timeout %d; keepalive_requests 1000000000;
    client_body_temp_path %[2]s/body; proxy_temp_path %[2]s/proxy;
    fastcgi_temp_path %[2]s/fastcgi; uwsgi_temp_path %[2]s/uwsgi; scgi_temp_path %[2]s/scgi;
    server {
        listen %[6]s backlog=%[7]d; root %[2]s;
        location = / { return 200 "Hello, World!"; }
    }
}
`, user, s.dir, clientsMax, clientsMax, idleSeconds, s.address(), s.backlog), 0o644)
}
