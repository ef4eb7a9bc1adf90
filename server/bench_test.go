package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"gophersnake/bench/openloop"
)

// runBench runs one bench command and returns its exit code and what it printed.
func runBench(signals <-chan os.Signal, args ...string) (code int, out, problems string) {
	var stdout, stderr bytes.Buffer
	code = execute(append([]string{"bench"}, args...), process{stdout: &stdout, stderr: &stderr,
		getenv: func(string) string { return "" }, signals: signals})
	return code, stdout.String(), stderr.String()
}

func answering(t *testing.T, status int) string {
	t.Helper()
	sv := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, _ *http.Request) {
		out.WriteHeader(status)
		_, _ = io.WriteString(out, "Hello")
	}))
	t.Cleanup(sv.Close)
	return sv.URL
}

func TestBenchReports(t *testing.T) {
	url := answering(t, http.StatusOK)
	hgrm := filepath.Join(t.TempDir(), "latencies.hgrm")
	code, out, problems := runBench(nil, url, "--rate", "200", "--duration", "100ms", "--json",
		"--connections", "4", "--hgrm", hgrm)
	var report openloop.Report
	if err := json.Unmarshal([]byte(out), &report); err != nil || code != exitClean ||
		report.Done != 20 || report.Due != 20 || len(report.Faults) > 0 || report.At(100) == 0 {
		t.Errorf("exit %d, %v, said %s%s", code, err, out, problems)
	}
	text, err := os.ReadFile(hgrm)
	if err != nil || !bytes.Contains(text, []byte("TotalCount")) ||
		!bytes.Contains(text, []byte("#[Max")) {
		t.Errorf("%v, %s", err, text)
	}
}

func TestBenchShowsErrorsByKind(t *testing.T) {
	url := answering(t, http.StatusTeapot)
	code, out, _ := runBench(nil, url, "--rate", "100", "--duration", "100ms")
	if code != exitRuntime || !strings.Contains(out, "FAULTS: 10 status (418 I'm a teapot)") ||
		strings.Contains(out, "percentile") {
		t.Errorf("exit %d, said\n%s", code, out)
	}
}

// A server that stops answering: Ctrl-C shows what is known and waits for nothing.
func TestBenchIsInterrupted(t *testing.T) {
	hold, asked := make(chan struct{}), make(chan struct{}, 100)
	sv := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, in *http.Request) {
		if in.URL.Path == "/hold" {
			asked <- struct{}{}
			<-hold
		}
	}))
	defer sv.Close()
	defer close(hold)
	signals := make(chan os.Signal, 1)
	go func() {
		<-asked
		signals <- syscall.SIGINT
	}()
	begin := time.Now()
	code, out, problems := runBench(signals, "9*"+sv.URL, sv.URL+"/hold", "--rate", "1000",
		"--duration", "1h", "--connections", "1")
	if took := time.Since(begin); code != exitClean || took > waitMax ||
		!strings.HasPrefix(out, "9 answers of 9 due,") || strings.Contains(out, "FAULTS") {
		t.Errorf("exit %d after %v, said\n%s%s", code, took, out, problems)
	}
}

func TestBenchCommandLinesThatAreRefused(t *testing.T) {
	const url = "http://127.0.0.1:9/"
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{url}, "needs --rate"},
		{[]string{url, "--rate", "0"}, "above 0"},
		{[]string{url, "--rate", "NaN"}, "above 0"},
		{[]string{url, "--rate", "2000000"}, "up to 1000000"},
		{[]string{url, "--rate", "0.1", "--duration", "5"}, "no request is due"},
		{[]string{url, "--rate", "10", "--duration", "-1s"}, "give a time"},
		{[]string{url, "--rate", "10", "--connections", "0"}, "from 1 to"},
		{[]string{"--rate", "10"}, "no URL"},
		{[]string{"https://127.0.0.1/", "--rate", "10"}, "not an http:// URL"},
	} {
		code, _, problems := runBench(nil, c.args...)
		if code != exitUsage || !strings.Contains(problems, c.want) {
			t.Errorf("bench %q: exit %d, said %q, want %q", c.args, code, problems, c.want)
		}
	}
}
