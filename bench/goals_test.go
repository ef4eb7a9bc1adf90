package main

import (
	"bytes"
	"strings"
	"testing"

	"gophersnake/bench/openloop"
)

// Every goal names a workload, a placement and servers that exist.
func TestGoalsAreMeasurable(t *testing.T) {
	works, known := map[string]workload{}, map[string]bool{}
	for _, w := range workloads() {
		works[w.name] = w
	}
	for _, p := range peers() {
		known[p.name] = true
	}
	for _, b := range goals() {
		w, found := works[b.workload]
		if !found || b.placement == apart && !w.pinned || !w.bar {
			t.Errorf("%s: %s is not run there by --workloads bar", b.what, b.workload)
		}
		if _, found := works[b.beside]; b.beside != "" && !found {
			t.Errorf("%s: no workload %s", b.what, b.beside)
		}
		for _, name := range b.against {
			if !known[name] {
				t.Errorf("%s: no server %s", b.what, name)
			}
		}
	}
}

func TestGoalsAreJudged(t *testing.T) {
	r := &results{Floor: floor{Python: "3", Shim: 1000, Bare: 50}}
	for _, name := range []string{"hello-64", "hello-512", "rate", "rate-idle"} {
		measure := throughput
		if strings.HasPrefix(name, "rate") {
			measure = latency
		}
		r.Workloads = append(r.Workloads, workNote{Name: name, Measure: measure})
	}
	for _, name := range []string{ours, "granian", "granian-1", "bjoern", reactor, nginxName} {
		r.Peers = append(r.Peers, peerNote{Name: name})
	}
	put := func(work, peer string, perSecond float64, p99 int64) {
		c := cell{Round: 1, Placement: shared, Workload: work, Peer: peer, PerSecond: perSecond}
		if p99 > 0 {
			c.Latency = &openloop.Report{All: points(1, p99)}
		}
		r.Cells = append(r.Cells, c)
	}
	put("hello-64", ours, 100, 0)
	put("hello-64", "granian", 40, 0)
	put("hello-64", "granian-1", 60, 0)
	put("hello-64", "bjoern", 90, 0)
	put("hello-64", reactor, 110, 0)
	put("hello-64", nginxName, 200, 0)
	put("rate", ours, 0, 1000)
	put("rate-idle", ours, 0, 1100)
	var b bytes.Buffer
	r.writeBars(&b, r.tables())
	for _, want := range []string{
		"| hello, 64 clients, to the fastest | ≥ 1.00 | 1.20 | 1.11 | bjoern | met |",
		"| hello, 64 clients, to granian | ≥ 1.50 | 2.00 | 1.67 | granian-1 | met |",
		"| hello, 512 clients, to the fastest | ≥ 1.00 | 1.20 |  |  | not measured |",
		"beside 10,000 | ≥ 0.83 | 0.95 | 0.91 | rate | met |",
		"`return 200` | ≥ 0.80 | 1.00 | 0.55 | nginx | **missed** |",
		"GIL held, ns | ≤ 1,200 | 800 | 1,000 | | met |",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no line %q in\n%s", want, b.String())
		}
	}
}

// What nginx cannot reach either, because the generator is at its limit, is said to be so.
func TestGoalsOutOfReach(t *testing.T) {
	for _, c := range []struct {
		nginx, generator float64
		want             string
	}{
		{140, 0.97, "| 1.30 | granian | **missed**: at the generator's limit, nginx `return 200` gets 1.40 |"},
		{140, 0.80, "| 1.30 | granian | **missed** |"},
		{160, 0.97, "| 1.30 | granian | **missed** |"},
	} {
		r := &results{Workloads: []workNote{{Name: "hello-512", Measure: throughput}}}
		for _, name := range []string{ours, "granian", nginxName} {
			r.Peers = append(r.Peers, peerNote{Name: name})
		}
		r.Cells = []cell{
			{Round: 1, Placement: shared, Workload: "hello-512", Peer: ours, PerSecond: 130},
			{Round: 1, Placement: shared, Workload: "hello-512", Peer: "granian", PerSecond: 100},
			{Round: 1, Placement: shared, Workload: "hello-512", Peer: nginxName, PerSecond: c.nginx,
				GeneratorCPU: c.generator},
		}
		var b bytes.Buffer
		r.writeBars(&b, r.tables())
		if !strings.Contains(b.String(), c.want) {
			t.Errorf("nginx %v, generator %v: no %q in\n%s", c.nginx, c.generator, c.want, b.String())
		}
	}
}

// What loses some of its requests or of its crowd has no figure to be judged by.
func TestGoalsAreNotJudgedByPartOfTheLoad(t *testing.T) {
	for want, spoil := range map[string]func(*cell){
		"**not valid**: read errors": func(c *cell) { c.Errors = map[string]int64{"read": 1} },
		"**not valid**: 9 of 10 idle clients": func(c *cell) {
			c.Latency.CrowdLack = "9 of 10 idle clients"
		},
		"**not valid**: idle clients were closed": func(c *cell) { c.Latency.IdleLost = 1 },
		"aim reached": func(*cell) {},
	} {
		r := &results{Peers: []peerNote{{Name: ours}}}
		for _, name := range []string{"rate", "rate-idle"} {
			r.Workloads = append(r.Workloads, workNote{Name: name, Measure: latency})
			c := cell{Round: 1, Placement: shared, Workload: name, Peer: ours,
				Latency: &openloop.Report{All: points(1, 1000)}}
			if name == "rate-idle" {
				spoil(&c)
			}
			r.Cells = append(r.Cells, c)
		}
		var b bytes.Buffer
		r.writeBars(&b, r.tables())
		if !strings.Contains(b.String(), "beside 10,000 | ≥ 0.83 | 0.95 | 1.00 | rate | "+want+" |") {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

// The rival is whom the ratios of the rounds are least to, not whose median is the highest.
func TestRivalIsOfTheSameRound(t *testing.T) {
	r := &results{Workloads: []workNote{{Name: "hello-64", Measure: throughput}}}
	for name, perSecond := range map[string][3]float64{
		ours: {100, 200, 300}, "lucky": {50, 250, 290}, "close": {99, 180, 299},
	} {
		r.Peers = append(r.Peers, peerNote{Name: name})
		for i, n := range perSecond {
			r.Cells = append(r.Cells, cell{Round: i + 1, Placement: shared, Workload: "hello-64",
				Peer: name, Seconds: 2, PerSecond: n, Starved: name == "lucky" && i == 0})
		}
	}
	if found := goals()[0].measured(r.tables(), nil); found.whom != "close" {
		t.Errorf("%+v", found)
	}
}

// Who serves no new client while there is time for it is nobody's rival; with 512 clients and 300
// requests a second there is none.
func TestStarving(t *testing.T) {
	for perSecond, want := range map[float64]string{300: "greedy", 3000: "fair"} {
		r := &results{Workloads: []workNote{{Name: "hello-64", Measure: throughput, Clients: 512}}}
		for name, n := range map[string]float64{ours: perSecond, "fair": perSecond / 2,
			"greedy": perSecond} {
			r.Peers = append(r.Peers, peerNote{Name: name})
			r.Cells = append(r.Cells, cell{Round: 1, Placement: shared, Workload: "hello-64",
				Peer: name, Seconds: 2, PerSecond: n, Starved: name == "greedy"})
		}
		if found := goals()[0].measured(r.tables(), nil); found.whom != want {
			t.Errorf("%v/s: the rival is %q, want %q", perSecond, found.whom, want)
		}
	}
}

func TestTheReactorIsAskedWithoutTheApp(t *testing.T) {
	for _, w := range workloads() {
		if !w.plainHello() {
			continue
		}
		asked := w.withoutApp()
		if got := string(asked.requests[0].wire("a:1")); !strings.HasPrefix(got,
			"OPTIONS * HTTP/1.1\r\nHost: a:1\r\n") || w.requests[0].method != "GET" {
			t.Errorf("%s: %q", w.name, got)
		}
		if err := asked.requests[0].check(nil); err != nil {
			t.Error(err)
		}
	}
}
