package main

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// The workloads. A new one is a line of the table in workloads, and a route of apps/plain.py if
// it needs one.

// measure is what a workload is about; figures of two kinds are never put in one table.
type measure string

const (
	throughput measure = "throughput" // closed loop, wrk: how many requests a second
	latency    measure = "latency"    // open loop at a fixed rate: how long a request takes
	start      measure = "start"      // from exec to the first 200
)

// Names that stand for several workloads: those that decide, and what a run of these leaves out.
const (
	barName  = "bar"
	restName = "rest"
)

// plainApp is the module of the app without a framework.
const plainApp = "plain"

// The defaults of a workload.
const (
	threadsDefault = 4
	clientsDefault = 64
)

// workload is one line of the table.
type workload struct {
	name     string
	what     string // for the page
	measure  measure
	app      string // module in bench/apps
	threads  int    // of the one interpreter
	clients  int    // connections
	requests []request
	pipeline int  // requests sent in one go
	close    bool // a connection for each request
	rate     float64
	idle     int  // keep-alive clients that do nothing meanwhile
	slow     int  // clients that send or read a byte a second meanwhile
	fixed    bool // a server without Python can answer it
	bar      bool // decides whether the project has met its aim: run by -workloads bar
	pinned   bool // is run with the server on one core as well
}

// request is one request of a workload's cycle, sent times in a row (once by default).
type request struct {
	times   int
	method  string // GET, or POST if there is a body
	path    string
	headers []string
	body    string
	filler  int // POST so many bytes x instead of body
	chunked bool
	want    string // the whole body of the answer, or
	has     string // a part of it, or
	length  int    // its length
}

func workloads() []workload {
	hello := get1("/", "Hello, World!")
	json := []request{{path: "/json", has: `"Hello, World!"`}}
	mixed := []request{{path: "/sum?a=13&b=42", want: "55", times: 2},
		{path: "/sum?a=13&b=42", body: "20", want: "75"}}
	chunked := []request{{path: "/sum?a=13&b=42", want: "55"},
		{path: "/sum?a=13&b=42", body: "20", want: "75"},
		{path: "/sum?a=13&b=42", body: "20", chunked: true, want: "75"}}
	spun := get1("/cpu", "240000")
	upload := []request{{path: "/count", filler: 20_000_000, want: "20000000"}}
	download := sized("/download", 102_400_000)
	dozing := []request{{path: "/io1", want: "slept", times: 19}, {path: "/io200", want: "slept"}}
	table := []workload{
		line("hello-64", "13 bytes, 64 clients", hello, fixed, bar, pinned),
		line("hello-512", "13 bytes, 512 clients", hello, clients(512), fixed, bar),
		line("hello-browser", "13 bytes to a request with 12 headers", browser(), fixed, pinned),
		line("hello-varied", "the same from many browsers: cookies and queries differ", varied()),
		line("pipelined-16", "13 bytes, 16 requests in one write", hello, pipeline(16), fixed, bar),
		line("close", "13 bytes, a connection for each request", hello, closing, fixed),
		line("get-1k", "1,000 bytes", sized("/1k", 1_000), fixed),
		line("get-10k", "10,000 bytes", sized("/10k", 10_000), fixed),
		line("get-100k", "100,000 bytes", sized("/100k", 100_000), fixed),
		line("mix", "two GET, one POST with Content-Length", mixed),
		line("mix-chunked", "GET, POST with Content-Length, chunked POST", chunked),
		line("echo-1k", "POST 1,000 bytes, echoed", posted("/echo", 1_000)),
		line("echo-100k", "POST 100,000 bytes, echoed", posted("/echo", 100_000)),
		line("upload-20m", "POST 20 MB, read in pieces, 32 clients", upload, clients(32)),
		line("download-100m", "102.4 MB in pieces, 4 clients", download, clients(4)),
		line("flask-hello", "Flask, 13 bytes", hello, app("flask_hello"), bar, pinned),
		line("flask-json", "Flask, JSON", json, app("flask_hello")),
		line("django-hello", "Django, 13 bytes", hello, app("django_hello"), bar, pinned),
		line("django-json", "Django, JSON", json, app("django_hello")),
		line("cherrypy-hello", "CherryPy, 13 bytes", hello, app("cherrypy_hello")),
		line("cherrypy-json", "CherryPy, JSON", json, app("cherrypy_hello")),
		line("sleep-10ms", "10 ms asleep, 512 clients, 32 threads", get1("/io10", "slept"),
			threads(32), clients(512), bar),
		line("sleep-100ms", "100 ms asleep, 512 clients, 32 threads", get1("/io100", "slept"),
			threads(32), clients(512)),
		line("cpu-1", "5 ms of Python, 1 thread", spun, threads(1)),
		line("cpu-4", "5 ms of Python, 4 threads", spun, threads(4)),
		line("cpu-16", "5 ms of Python, 16 threads", spun, threads(16)),
		line("cpu-64", "5 ms of Python, 64 threads", spun, threads(64)),
		line("rate", "13 bytes, 1,000 requests/s", hello, rate(1000), fixed, bar),
		line("rate-idle", "the same beside 10,000 idle clients", hello, rate(1000),
			idle(10_000), fixed, bar),
		line("rate-slow", "the same beside 1,000 slow clients", hello, rate(1000),
			slow(1_000), fixed, bar),
		line("mix-95-5", "95 % asleep 1 ms, 5 % 200 ms, 250 requests/s", dozing, rate(250)),
		line("start", "exec to the first 200", hello, starting, fixed),
	}
	return table
}

// line is a workload with the defaults and then the options.
func line(name, what string, requests []request, options ...func(*workload)) workload {
	w := workload{name: name, what: what, measure: throughput, app: plainApp,
		threads: threadsDefault, clients: clientsDefault, pipeline: 1,
		requests: slices.Clone(requests)}
	for _, option := range options {
		option(&w)
	}
	for i := range w.requests {
		w.requests[i].fill(w.close)
	}
	return w
}

func fixed(w *workload)    { w.fixed = true }
func bar(w *workload)      { w.bar = true }
func pinned(w *workload)   { w.pinned = true }
func closing(w *workload)  { w.close = true }
func starting(w *workload) { w.measure = start }

func app(module string) func(*workload) { return func(w *workload) { w.app = module } }
func clients(n int) func(*workload)     { return func(w *workload) { w.clients = n } }
func threads(n int) func(*workload)     { return func(w *workload) { w.threads = n } }
func pipeline(n int) func(*workload)    { return func(w *workload) { w.pipeline = n } }
func idle(n int) func(*workload)        { return func(w *workload) { w.idle = n } }
func slow(n int) func(*workload)        { return func(w *workload) { w.slow = n } }

// rate makes a workload of latencies out of one of throughput.
func rate(perSecond float64) func(*workload) {
	return func(w *workload) { w.measure, w.rate = latency, perSecond }
}

func get1(path, want string) []request    { return []request{{path: path, want: want}} }
func sized(path string, n int) []request  { return []request{{path: path, length: n}} }
func posted(path string, n int) []request { return []request{{path: path, filler: n, length: n}} }

// browser is what a browser behind a proxy sends.
func browser() []request {
	return []request{{path: "/", want: "Hello, World!", headers: []string{
		"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
		"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
		"Accept-Language: en-GB,en;q=0.5",
		"Accept-Encoding: gzip, deflate, br, zstd",
		"Cookie: session=6f1c2c0f4d3f4a1f8c55d8a6a2d7e0b9; theme=dark",
		"Upgrade-Insecure-Requests: 1",
		"Sec-Fetch-Dest: document",
		"Sec-Fetch-Mode: navigate",
		"Sec-Fetch-Site: none",
		"Priority: u=0, i",
		"X-Forwarded-For: 203.0.113.7",
	}}}
}

// variedRequests is how many different requests come in turn.
const variedRequests = 251

// varied is what the browsers of many people send: no two requests that follow each other are the
// same.
func varied() []request {
	all := make([]request, variedRequests)
	for i := range all {
		all[i] = browser()[0]
		all[i].path = fmt.Sprintf("/?page=%d", i)
		all[i].headers = slices.Clone(all[i].headers)
		for j, line := range all[i].headers {
			switch name, _, _ := strings.Cut(line, ":"); name {
			case "Cookie":
				all[i].headers[j] = fmt.Sprintf("Cookie: session=%032x; theme=dark", i*i)
			case "X-Forwarded-For":
				all[i].headers[j] = fmt.Sprintf("X-Forwarded-For: 203.0.113.%d", i)
			}
		}
	}
	return all
}

// fill writes the defaults into r.
func (r *request) fill(closing bool) {
	if r.times == 0 {
		r.times = 1
	}
	if r.method == "" {
		r.method = "GET"
		if r.body != "" || r.filler > 0 {
			r.method = "POST"
		}
	}
	if closing {
		r.headers = append(r.headers, "Connection: close")
	}
	if r.length == 0 && r.has == "" {
		r.length = len(r.want)
	}
}

// plainHello reports whether w asks for / alone, by wrk: what withoutApp can stand in for.
func (w *workload) plainHello() bool {
	return w.measure == throughput && len(w.requests) == 1 && w.requests[0].path == "/" &&
		w.requests[0].method == "GET"
}

// withoutApp is w with OPTIONS * (RFC 9110 §9.3.7) in place of GET /, all else the same.
func (w *workload) withoutApp() *workload {
	asked := *w
	asked.requests = slices.Clone(w.requests)
	one := &asked.requests[0]
	one.method, one.path, one.want, one.length = "OPTIONS", "*", "", 0
	return &asked
}

// payload is the body as sent.
func (r *request) payload() string {
	if r.filler > 0 {
		return strings.Repeat("x", r.filler)
	}
	return r.body
}

// head is the request up to and with the empty line, for the given address. Heads and bodies
// are apart because a body of megabytes is not written out in a script.
func (r *request) head(address string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", r.method, r.path, address)
	for _, line := range r.headers {
		b.WriteString(line + "\r\n")
	}
	if r.method == "POST" {
		b.WriteString("Content-Type: application/octet-stream\r\n")
		if r.chunked {
			b.WriteString("Transfer-Encoding: chunked\r\n")
		} else {
			b.WriteString("Content-Length: " + strconv.Itoa(len(r.payload())) + "\r\n")
		}
	}
	return b.String() + "\r\n"
}

// wire is the whole request as sent.
func (r *request) wire(address string) []byte {
	body := r.payload()
	if r.chunked {
		body = fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body)
	}
	return []byte(r.head(address) + body)
}

// check says what is wrong with a body that came as the answer.
func (r *request) check(body []byte) error {
	switch {
	case r.has != "" && !bytes.Contains(body, []byte(r.has)):
		return fmt.Errorf("%s %s: %.40q does not contain %q", r.method, r.path, body, r.has)
	case r.want != "" && string(body) != r.want:
		return fmt.Errorf("%s %s: got %.40q, want %q", r.method, r.path, body, r.want)
	case r.has == "" && len(body) != r.length:
		return fmt.Errorf("%s %s: %d bytes, want %d", r.method, r.path, len(body), r.length)
	}
	return nil
}
