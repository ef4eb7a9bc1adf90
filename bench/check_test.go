package main

import (
	"path/filepath"
	"strings"
	"testing"
)

const goBenchText = `goos: linux
pkg: gophersnake/loop
BenchmarkKeepAlive-2   	    2164	    160097 ns/op	      64 B/op	       2 allocs/op
BenchmarkKeepAlive-2   	    2164	    150000.5 ns/op	      64 B/op	       3 allocs/op
PASS
pkg: gophersnake/loop/http1
BenchmarkScan/wrk-49-2    	 2226754	       473.0 ns/op	  9.654 ns/byte	 0 B/op	       0 allocs/op
`

func TestBestOfGoBenchmarks(t *testing.T) {
	f := figures{Go: map[string]goFigure{}}
	if err := f.keepBest([]byte("PASS\n")); err == nil {
		t.Error("a run without benchmarks was taken")
	}
	err := f.keepBest([]byte(goBenchText))
	got := f.Go
	if err != nil || len(got) != 2 ||
		got["loop BenchmarkKeepAlive"] != (goFigure{150000.5, 2}) ||
		got["loop/http1 BenchmarkScan/wrk-49"] != (goFigure{473, 0}) {
		t.Errorf("got %v, %v", got, err)
	}
}

func sampleFigures() *figures {
	return &figures{Compiler: "cc 1", Reference: 1000,
		Go: map[string]goFigure{"pybridge BenchmarkLane": {100, 0},
			"loop BenchmarkKeepAlive": {1000, 2}},
		Shim: map[string]shimFigure{"3.11.2 (main)": {7000, 16000}}}
}

func TestCompareFindsRegressions(t *testing.T) {
	const lane, python = "pybridge BenchmarkLane", "3.11.2 (main)"
	for _, c := range []struct {
		what   string
		change func(*figures)
		want   string // begins the line that is worse; "" is none
	}{
		{"the same", func(*figures) {}, ""},
		{"noise", func(f *figures) { f.Go[lane] = goFigure{149, 0} }, ""},
		{"slower", func(f *figures) { f.Go[lane] = goFigure{151, 0} }, lane + " ns"},
		{"one allocation", func(f *figures) { f.Go[lane] = goFigure{100, 1} }, lane + " allocs"},
		{"gone", func(f *figures) { delete(f.Go, lane) }, lane},
		{"a slower machine", func(f *figures) {
			f.Go[lane], f.Reference = goFigure{290, 0}, 2000
		}, ""},
		{"the scheduler", func(f *figures) {
			f.Go["loop BenchmarkKeepAlive"] = goFigure{9000, 2}
		}, ""},
		{"2.9 % in the shim", func(f *figures) { f.Shim[python] = shimFigure{7200, 16200} }, ""},
		{"3.1 % in the shim", func(f *figures) { f.Shim[python] = shimFigure{7218, 16200} },
			"shim's own"},
		{"3.1 % in all", func(f *figures) { f.Shim[python] = shimFigure{7000, 16500} }, "all"},
		{"another Python", func(f *figures) { f.Shim = nil }, ""},
	} {
		now := sampleFigures()
		c.change(now)
		lines, worse := compare(sampleFigures(), now)
		var found string
		for _, line := range lines {
			if strings.Contains(line, "WORSE") {
				found += line
			}
		}
		if !strings.HasPrefix(found, c.want) || (worse > 0) != (c.want != "") || worse > 1 {
			t.Errorf("%s: %d worse, %q, want %q", c.what, worse, found, c.want)
		}
	}
}

// Figures of an interpreter that is not here stay when others are updated.
func TestUpdateKeepsOtherInterpreters(t *testing.T) {
	path := filepath.Join(t.TempDir(), "figures.json")
	now := sampleFigures()
	now.Shim = map[string]shimFigure{"3.13.0": {1, 2}}
	if err := now.write(path, sampleFigures()); err != nil {
		t.Fatal(err)
	}
	got, err := readFigures(path)
	if err != nil || len(got.Shim) != 2 || got.Shim["3.13.0"].All != 2 {
		t.Errorf("%v, %v", got, err)
	}
}
