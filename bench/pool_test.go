package main

import (
	"bytes"
	"context"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gophersnake/bench/openloop"
)

func TestHalfLoad(t *testing.T) {
	for _, c := range []struct {
		shorts  float64
		threads int
		want    float64
	}{
		{0, 4, 0},
		{950, 4, 0.5 * 4 / 0.011},   // all asleep before the GIL is busy
		{950, 64, 0.5 * 950 / 0.95}, // the GIL busy before all are asleep
		{1e9, 1, 0.5 * 1 / 0.010},
	} {
		if got := halfLoad(c.shorts, c.threads); math.Abs(got-c.want) > c.want*1e-3 {
			t.Errorf("%v short ones a second, %d threads: got %v, want %v", c.shorts, c.threads,
				got, c.want)
		}
	}
}

// pooledSample is two rounds in which all is good but for what the test wants.
func pooledSample(change func(*poolCell)) *poolResults {
	r := &poolResults{Rounds: 2, Threads: []int{1, 4}, Rules: []poolRule{{Name: "a"}, {Name: "b"}}}
	for round := 1; round <= 2; round++ {
		for _, rule := range r.Rules {
			for _, threads := range r.Threads {
				add := func(load string, perSecond float64, p50 int64) {
					c := poolCell{Threads: threads}
					c.Round, c.Peer, c.Workload = round, rule.Name, load
					c.PerSecond, c.Requests = perSecond*float64(round), 1 // rounds differ
					if p50 > 0 {
						c.Latency = &openloop.Report{All: points(p50, p50)}
					}
					change(&c)
					r.Cells = append(r.Cells, c)
				}
				add("hello", 1000, 0)
				add("sleep-10ms", 100*float64(threads)/float64(round), 0)
				if threads > 1 {
					add(mixLoad, 10, 1400)
					add(aloneOf, 10, 1000)
				}
			}
		}
	}
	return r
}

func TestPoolVerdicts(t *testing.T) {
	const hello, asleep, mixed = ": hello, b: ", ": sleep-10ms, b: ", ": mix, b: "
	slow := func(load string, threads int, factor float64) func(*poolCell) {
		return func(c *poolCell) {
			if c.Workload == load && c.Threads == threads && c.Peer == "b" {
				c.PerSecond *= factor
				if c.Latency != nil {
					c.Latency.All = points(int64(1400/factor), 9000)
				}
			}
		}
	}
	fail := func(c *poolCell) {
		if c.Workload == "hello" && c.Threads == 1 && c.Peer == "b" {
			c.Failure = "status 500"
		}
	}
	for name, c := range map[string]struct {
		change func(*poolCell)
		want   []string
	}{
		"all good":  {func(*poolCell) {}, []string{hello + "met", asleep + "met", mixed + "met"}},
		"near":      {slow("hello", 4, 0.96), []string{hello + "met"}},
		"slower":    {slow("hello", 4, 0.94), []string{hello + "**missed**: 0.94 at 4 threads"}},
		"base slow": {slow("hello", 1, 0.5), []string{hello + "met"}},
		"base gone": {fail, []string{hello + "not measured", "status 500"}},
		"few":       {slow("sleep-10ms", 1, 0.94), []string{asleep + "**missed**: 0.94 at 1 thr"}},
		"many":      {slow("sleep-10ms", 4, 1.06), []string{asleep + "**missed**: 1.06 at 4 thr"}},
		"mix slow":  {slow(mixLoad, 4, 0.9), []string{mixed + "**missed**: 1.55 at 4 threads"}},
		"mix beside": {slow(mixLoad, 4, 0.5),
			[]string{"| b | 4 | 2.80 (2.80–2.80) | 2.80 (2.80–2.80) | 0 (0–0) | 0.50 "}},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			if err := pooledSample(c.change).print(&out); err != nil {
				t.Fatal(err)
			}
			for _, want := range append(c.want, ": hello, a: met\n", ": mix, a: met\n") {
				if !strings.Contains(out.String(), want) {
					t.Errorf("it does not say %q:\n%s", want, out.String())
				}
			}
			if strings.Contains(out.String(), "cpu-1ms") {
				t.Errorf("it tells of what was not measured:\n%s", out.String())
			}
		})
	}
}

func TestPoolArguments(t *testing.T) {
	if got, err := parseThreads("4,1,4,64"); err != nil || !slices.Equal(got, []int{1, 4, 64}) {
		t.Errorf("threads: got %v, %v, want 1 4 64", got, err)
	}
	for _, bad := range []string{"", "4,", "0", "x"} {
		if got, err := parseThreads(bad); err == nil {
			t.Errorf("threads %q: got %v, want an error", bad, got)
		}
	}
	if got, err := chooseLoads("mix"); err != nil || len(got) != 2 || got[0].name != cpuLoad {
		t.Errorf("the mix came with %v, %v, want %s before it", got, err, cpuLoad)
	}
	if _, err := chooseLoads("mixed"); err == nil {
		t.Error("an unknown load was taken")
	}
	binary := filepath.Join(t.TempDir(), "one")
	if err := os.WriteFile(binary, nil, 0o700); err != nil {
		t.Fatal(err)
	}
	got, err := findRules(context.Background(), ".", []string{"a=" + binary})
	if err != nil || len(got) != 1 || got[0] != (poolRule{"a", binary}) {
		t.Errorf("got %v, %v, want %s", got, err, binary)
	}
	for _, bad := range []string{binary, "=" + binary, "a=" + binary + ".gone", "a|b=" + binary} {
		if _, err := findRules(context.Background(), ".", []string{bad}); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
