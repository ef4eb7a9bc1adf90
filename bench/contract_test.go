package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"gophersnake/bench/openloop"
)

// wsgirefServer serves plain:app by the standard library; with "leave" it leaves close() out.
const wsgirefServer = `
import sys
from wsgiref import handlers, simple_server
import plain
if sys.argv[2] == "leave":
    def app(environ, start_response):
        return iter(plain.app(environ, start_response))
else:
    app = plain.app
simple_server.WSGIRequestHandler.log_message = lambda *ignored: None
simple_server.make_server("127.0.0.1", int(sys.argv[1]), app).serve_forever()
`

func TestClosingIsChecked(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	if err := os.Symlink(here, filepath.Join(root, "bench")); err != nil {
		t.Fatal(err)
	}
	serve := func(how string) func(*site) []string {
		return func(s *site) []string {
			return []string{"python3", "-c", wsgirefServer, strconv.Itoa(s.port), how}
		}
	}
	var said bytes.Buffer
	r := runner{root: root, say: &said, peers: []peer{
		{name: "whole", command: serve("call")}, {name: "hasty", command: serve("leave")},
		{name: "none", fixed: true}, {name: "absent"}},
		lacking: map[string]string{"absent": "not here"}}
	r.checkClosing(t.Context())
	if len(r.unclosed) != 1 || !r.unclosed["hasty"] ||
		said.String() != "hasty: never calls close() of what an app returns\n" {
		t.Errorf("%v, said %q", r.unclosed, said.String())
	}
}

// Who leaves out a part of each request is listed, but is nobody's rival.
func TestWhoLeavesOutCloseIsNoRival(t *testing.T) {
	r := results{Workloads: []workNote{{Name: "django-hello", Measure: throughput}}}
	for name, perSecond := range map[string]float64{ours: 100, "bjoern": 90, "fastwsgi": 110} {
		r.Peers = append(r.Peers, peerNote{Name: name})
		r.Cells = append(r.Cells, cell{Round: 1, Placement: shared, Workload: "django-hello",
			Peer: name, PerSecond: perSecond, Unclosed: name == "fastwsgi",
			Latency: &openloop.Report{}})
	}
	page := string(page([]*results{&r}, "charts"))
	for _, want := range []string{
		"| Django hello, to the fastest | ≥ 1.00 | 1.05 | 1.11 | bjoern | aim reached; " +
			"0.91 to fastwsgi, which never calls close() |",
		"* django-hello, to fastwsgi: 0.91 (" + unclosedNote + ")\n",
		unclosedNote + " |",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q in\n%s", want, page)
		}
	}
}
