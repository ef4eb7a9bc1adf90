package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gophersnake/bench/openloop"
)

func TestTablesHoldEachNameOnce(t *testing.T) {
	seen := map[string]bool{}
	once := func(name string) {
		if seen[name] || name == "" || strings.ContainsAny(name, ", ") {
			t.Errorf("%q is there twice, or no name", name)
		}
		seen[name] = true
	}
	for _, w := range workloads() {
		once(w.name)
		if len(w.requests) == 0 || w.measure == latency && w.rate == 0 {
			t.Errorf("%s: nothing to send, or no rate", w.name)
		}
	}
	for _, p := range peers() {
		once(p.name)
		if p.kit == "" {
			continue
		}
		if _, err := os.Stat(filepath.Join("peers", p.kit+".txt")); err != nil {
			t.Error(err)
		}
	}
}

// Every requirement is pinned: a run next year measures the same servers.
func TestRequirementsArePinned(t *testing.T) {
	files, err := filepath.Glob("peers/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if !strings.HasPrefix(line, "#") && !strings.Contains(line, "==") {
				t.Errorf("%s: %q has no version", file, line)
			}
		}
	}
}

// serving is a server of the test's own that looks like a started peer.
func serving(t *testing.T, handler http.HandlerFunc) *server {
	t.Helper()
	listening := httptest.NewServer(handler)
	t.Cleanup(listening.Close)
	port := listening.Listener.Addr().(*net.TCPAddr).Port
	return &server{site: &site{port: port, dir: t.TempDir()}}
}

func TestVerifyTellsWrongAnswers(t *testing.T) {
	sv := serving(t, func(out http.ResponseWriter, in *http.Request) {
		switch in.URL.Path {
		case "/missing":
			out.WriteHeader(http.StatusNotFound)
		case "/echo":
			// Whole before the answer: net/http may take no more of a body once that has begun.
			body, _ := io.ReadAll(in.Body)
			_, _ = out.Write(body)
		default:
			_, _ = io.WriteString(out, "Hello")
		}
	})
	for _, c := range []struct {
		ask  request
		want string // in the error; "" is none
	}{
		{request{path: "/", want: "Hello"}, ""},
		{request{path: "/", length: 5}, ""},
		{request{path: "/", has: "ell"}, ""},
		{request{path: "/echo", filler: 1000, length: 1000}, ""},
		{request{path: "/echo", body: "20", want: "20", chunked: true}, ""},
		{request{path: "/", want: "Hallo"}, `got "Hello", want "Hallo"`},
		{request{path: "/", length: 6}, "5 bytes, want 6"},
		{request{path: "/", has: "x"}, "does not contain"},
		{request{path: "/missing"}, "404"},
	} {
		w := line("test", "", []request{c.ask})
		_, err := sv.verify(context.Background(), &w)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.ask, err, c.want)
		}
	}
}

// What wrk sends is what the workload says, and what it saw comes back.
func TestWrkSendsTheWorkload(t *testing.T) {
	if _, err := exec.LookPath("wrk"); err != nil {
		t.Skip(wrkAdvice)
	}
	seen := make(chan string, 1000)
	sv := serving(t, func(out http.ResponseWriter, in *http.Request) {
		body, _ := io.ReadAll(in.Body)
		select {
		case seen <- in.Method + " " + in.URL.Path + " " + in.Header.Get("X-Q") + " " + string(body):
		default:
		}
		if in.URL.Path == "/bad" {
			out.WriteHeader(http.StatusInternalServerError)
		}
	})
	for _, c := range []struct {
		requests []request
		want     string // is among the first
		errors   bool
	}{
		{[]request{{path: "/one", headers: []string{`X-Q: "\é`}}}, "GET /one \"\\é ", false},
		{[]request{{path: "/one"}, {path: "/two", body: "ab", chunked: true}}, "POST /two  ab", false},
		{[]request{{path: "/fill", filler: 4}}, "POST /fill  xxxx", false},
		{[]request{{path: "/bad"}}, "GET /bad  ", true},
	} {
		w := line("test", "", c.requests, clients(1), pipeline(2))
		script, err := writeScript(&w, sv.site)
		if err != nil {
			t.Fatal(err)
		}
		result, err := wrk(context.Background(), script, &w, sv.site, 1, "")
		if err != nil {
			t.Fatal(err)
		}
		if result.requests < 2 || (result.errors[openloop.FaultStatus] > 0) != c.errors {
			t.Errorf("%v: %d requests, errors %v", c.want, result.requests, result.errors)
		}
		if c.errors {
			continue
		}
		wire, err := sv.verify(context.Background(), &w)
		if err != nil {
			t.Fatal(err)
		}
		if err := result.check(&w, wire); err != nil {
			t.Errorf("%v: %v", c.want, err)
		}
		var got []string
		for found := false; !found; {
			select {
			case one := <-seen:
				got = append(got, one)
				found = one == c.want
			default:
				t.Fatalf("%q is not among %.300q", c.want, got)
			}
		}
		for len(seen) > 0 {
			<-seen
		}
	}
}

// wrk counts whatever looks like an answer: what is none must not become a figure.
func TestLoadIsChecked(t *testing.T) {
	const wire = 150.0 // bytes
	for _, c := range []struct {
		requests, bytes int64
		kind            string
		errors          int64
		pipeline        int
		want            string
	}{
		{1000, 150_000, "", 0, 1, ""},
		{1000, 150_000 + 64*149, "", 0, 1, ""}, // each client was in the midst of one
		{1000, 150_000, openloop.FaultRead, 10, 1, ""},
		{0, 0, openloop.FaultConnect, 5, 1, "no answer"},
		{1000, 38_000, "", 0, 1, "38 bytes under load, want 150"}, // a bare 204, say
		{1000, 300_000, "", 0, 1, "300 bytes under load"},
		{1000, 150_000, openloop.FaultStatus, 1, 1, "1 of 1000 answers"},
		{1000, 150_000, openloop.FaultRead, 11, 1, "11 failed connections"},
		{64, 64 * 150, "", 0, 16, "pipelined requests is lost"},
	} {
		l := load{requests: c.requests, bytes: c.bytes, seconds: 1,
			errors: map[string]int64{c.kind: c.errors}}
		err := l.check(&workload{clients: 64, pipeline: c.pipeline}, wire)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c, err, c.want)
		}
	}
}

func TestParseStat(t *testing.T) {
	// The name may hold spaces and parentheses.
	line := "7 (a) (b c) S 3 7 5 0 -1 4194560 1 2 0 0 150 50 25 5 20 0 1 0 99 0 0"
	got, err := parseStat(7, []byte(line))
	want := stat{pid: 7, parent: 3, session: 5, cpu: 2300 * time.Millisecond}
	if err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	for _, short := range []string{"", "7 (x", "7 (x) S 3 4", strings.Replace(line, "150", "x", 1)} {
		if _, err := parseStat(7, []byte(short)); err == nil {
			t.Errorf("%q was taken", short)
		}
	}
}

func TestParseBusy(t *testing.T) {
	got, err := parseBusy("cpu  1 2 4 1000 500 8 16 32\ncpu0 9\ncpu1 9\nintr 1\n", 20*time.Second)
	if want := 25 * time.Second; err != nil || got != want {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	for _, bad := range []string{"", "cpu 1 2", "cpu 1 2 3 4 x", "cpu0 1 2 3 4 5 6 7 8"} {
		if _, err := parseBusy(bad, time.Second); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	before, err := busyCPU()
	if err != nil || before <= 0 {
		t.Errorf("busy for %v, %v", before, err)
	}
}

func TestFamilyAndItsMemory(t *testing.T) {
	child := exec.Command("sh", "-c", "read line")
	hold, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { hold.Close(); _ = child.Wait() }()
	all, err := family(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	found := map[int]bool{}
	for _, one := range all {
		found[one.pid] = true
	}
	if !found[os.Getpid()] || !found[child.Process.Pid] {
		t.Errorf("family %v lacks %d or %d", all, os.Getpid(), child.Process.Pid)
	}
	if pss, err := pssOf(all); err != nil || pss < 1<<20 {
		t.Errorf("PSS is %d bytes, %v", pss, err)
	}
}

func TestSpreadAndNumber(t *testing.T) {
	for _, c := range []struct {
		values      []float64
		text, ratio string
	}{
		{nil, "", ""},
		{[]float64{1234567}, "1,234,567", "1234567.00"},
		{[]float64{3, 1, 2}, "2.00 (1.00–3.00)", "2.00 (1.00–3.00)"},
		{[]float64{1.2, 0.9}, "1.05 (0.90–1.20)", "≈ 1.05 (0.90–1.20)"},
		{[]float64{0.5, 0.5, 999.6}, "0.50 (0.50–1,000)", "≈ 0.50 (0.50–999.60)"},
		{[]float64{12.34, 123.4}, "67.9 (12.3–123)", "67.87 (12.34–123.40)"},
	} {
		s := spreadOf(c.values)
		if s.String() != c.text || s.ratio() != c.ratio {
			t.Errorf("%v: got %q and %q, want %q and %q", c.values, s.String(), s.ratio(),
				c.text, c.ratio)
		}
	}
}

// sample is a run with a better peer, a worse one, one that failed and one that was not there.
func sample() *results {
	work := []workNote{{Name: "w", What: "test", Measure: throughput},
		{Name: "l", What: "test", Measure: latency}}
	r := &results{Rounds: 2, Seconds: 3, Warmup: 1, Workloads: work, Peers: []peerNote{{Name: ours},
		{Name: "better"}, {Name: "worse"}, {Name: "broken"},
		{Name: "absent", Lacking: "no | compiler"}}}
	for round := 1; round <= 2; round++ {
		base := float64(100 * round) // rounds differ by more than peers do
		for name, factor := range map[string]float64{ours: 1, "better": 2, "worse": 0.5} {
			r.Cells = append(r.Cells, cell{Round: round, Placement: shared, Workload: "w",
				Peer: name, PerSecond: base * factor, Requests: 1},
				cell{Round: round, Placement: shared, Workload: "l", Peer: name, Requests: 1,
					Latency: &openloop.Report{All: points(100, int64(1000*base/factor))}})
		}
		r.Cells = append(r.Cells, cell{Round: round, Placement: shared, Workload: "w",
			Peer: "broken", Failure: "status 500"})
	}
	return r
}

func points(p50, p99 int64) []openloop.Point {
	return []openloop.Point{{Percent: 50, Micros: p50}, {Percent: 99, Micros: p99}}
}

func TestRatiosAreOfTheSameRound(t *testing.T) {
	all := sample().tables()
	if len(all) != 2 {
		t.Fatalf("%d tables, want 2", len(all))
	}
	for i := range all {
		for _, one := range all[i].rows {
			want := map[string]string{ours: "", "better": "0.50 (0.50–0.50)",
				"worse": "2.00 (2.00–2.00)", "broken": ""}[one.peer]
			if got := all[i].ratio(&one).ratio(); got != want {
				t.Errorf("%s to %s: %q, want %q", all[i].work.Name, one.peer, got, want)
			}
		}
		if best := all[i].best(all[i].row(ours), nil); best.peer != "better" {
			t.Errorf("%s: best is %s", all[i].work.Name, best.peer)
		}
	}
}

func TestPageTellsEverything(t *testing.T) {
	dir := t.TempDir()
	to := output{page: filepath.Join(dir, "page.md"), charts: filepath.Join(dir, "charts")}
	hand := "# Title\n\n" + markBegin + "\nold\n" + markEnd + "\n\nafter\n"
	if err := os.WriteFile(to.page, []byte(hand), 0o600); err != nil {
		t.Fatal(err)
	}
	rest := sample()
	rest.Workloads, rest.Rounds, rest.Seconds, rest.Warmup = rest.Workloads[1:], 1, 2, 0
	for range 2 { // the second time it finds its own page
		if err := to.report(sample(), rest); err != nil {
			t.Fatal(err)
		}
	}
	page, err := os.ReadFile(to.page)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"# Title\n", "\nafter\n", `**not measured**: no \| compiler`,
		"* w, to better: 0.50", "| broken |  |  |", "status 500",
		"make bench BENCH='--workloads w --placements shared --rounds 2'", "(charts/shared-w.svg)",
		"| rounds | 2, each 3 s after 1 s of warm-up | 1, each 2 s after 0 s of warm-up |",
		"\n### l all\n", "(charts/shared-l-all.svg)",
		"'--workloads l --placements shared --rounds 1 --seconds 2 --warmup 0'"} {
		if !bytes.Contains(page, []byte(want)) {
			t.Errorf("the page lacks %q:\n%s", want, page)
		}
	}
	if bytes.Contains(page, []byte("old")) || bytes.Count(page, []byte(markBegin)) != 1 {
		t.Errorf("the page was not replaced between its markers:\n%s", page)
	}
	for _, name := range []string{"shared-w.svg", "shared-l.svg", "shared-l-all.svg"} {
		if text, err := os.ReadFile(filepath.Join(to.charts, name)); err != nil ||
			!bytes.HasSuffix(text, []byte("</svg>\n")) {
			t.Errorf("%s: %v, %.80q", name, err, text)
		}
	}
}

func TestWanted(t *testing.T) {
	all := []string{"a", "b"}
	if got, err := wanted("", all); err != nil || !got["a"] || !got["b"] {
		t.Errorf("nothing asked: %v, %v", got, err)
	}
	if got, err := wanted("b", all); err != nil || got["a"] || !got["b"] {
		t.Errorf("b asked: %v, %v", got, err)
	}
	if _, err := wanted("c", all); err == nil {
		t.Error("c was taken")
	}
}

// The command against a server of its own, with a crowd around it.
func TestLatencyCommand(t *testing.T) {
	sv := serving(t, func(out http.ResponseWriter, in *http.Request) {
		_, _ = io.WriteString(out, "Hello")
	})
	var out bytes.Buffer
	err := latencyCommand(context.Background(), []string{"--rate", "200", "--duration", "200ms",
		"--clients", "4", "--idle", "3", "--slow", "3", "--json", "--hold", "--length", "5",
		"http://" + sv.site.address() + "/"}, strings.NewReader(""), &out)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(out.String(), "ready\n{") || !strings.Contains(out.String(), `"done":40`) ||
		strings.Contains(out.String(), "lack") || strings.Contains(out.String(), "idle_lost") {
		t.Errorf("said %s", out.String())
	}
}
