package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"gophersnake/bench/openloop"
)

// wrk, the closed-loop generator: how many requests a second.

// wrkAdvice is where to get it.
const wrkAdvice = "wrk not found: apt install wrk, or build https://github.com/wg/wrk"

// wrkTimeout is after how many seconds wrk counts a timeout: never, in our runs. What a server
// is too slow for shows as few requests.
const wrkTimeout = "600"

// wrkLine begins the line that our script prints at the end.
const wrkLine = "BENCH"

// load is what wrk saw.
type load struct {
	requests, bytes int64
	seconds         float64
	errors          map[string]int64
	cpu             time.Duration // of wrk itself
}

const (
	// lengthOff is how much the mean length of an answer under load may differ from the verified.
	lengthOff = 0.02

	// lostMax is how many of the answers may be errors of connections, as a part.
	lostMax = 0.01
)

// check says why what wrk saw makes no figure: it counts whatever looks like an answer. wire is the
// length of the answers that were verified, with their heads.
func (l *load) check(w *workload, wire float64) error {
	lost := l.errors[openloop.FaultConnect] + l.errors[openloop.FaultRead] +
		l.errors[openloop.FaultWrite]
	answers := float64(l.requests)
	underWay := float64(w.clients * w.pipeline) // when the time was up; their bytes count
	least, most := answers*wire*(1-lengthOff), (answers+underWay)*wire*(1+lengthOff)
	switch {
	case l.requests == 0:
		return fmt.Errorf("no answer in %.1f s: %v", l.seconds, l.errors)
	case l.errors[openloop.FaultStatus] > 0:
		return fmt.Errorf("%d of %d answers under load have a status of failure",
			l.errors[openloop.FaultStatus], l.requests)
	case float64(lost) > answers*lostMax:
		return fmt.Errorf("%d answers and %d failed connections under load", l.requests, lost)
	case w.pipeline > 1 && l.requests <= int64(w.clients):
		return fmt.Errorf("%d answers to %d clients: the rest of their pipelined requests is lost",
			l.requests, w.clients)
	case float64(l.bytes) < least || float64(l.bytes) > most:
		return fmt.Errorf("answers of %.0f bytes under load, want %.0f", float64(l.bytes)/answers,
			wire)
	}
	return nil
}

// writeScript writes the Lua script by which wrk sends w's requests and tells all its counters.
func writeScript(w *workload, s *site) (string, error) {
	var b strings.Builder
	b.WriteString("local cycle, one = {}\n") // Lua has 200 locals at most
	for i := range w.requests {
		r := &w.requests[i]
		text := quoteLua(r.head(s.address()))
		if r.filler > 0 && !r.chunked {
			text += fmt.Sprintf(" .. string.rep(%q, %d)", "x", r.filler)
		} else {
			text = quoteLua(string(r.wire(s.address())))
		}
		fmt.Fprintf(&b, "one = %s\nfor i = 1, %d do cycle[#cycle + 1] = one end\n",
			text, r.times)
	}
	if w.pipeline > 1 {
		fmt.Fprintf(&b, "for i = 1, #cycle do cycle[i] = string.rep(cycle[i], %d) end\n", w.pipeline)
	}
	// Without a function called request, wrk formats one request and sends that over and over,
	// which costs it no Lua: so a cycle of one goes in by the formatter.
	b.WriteString(`
if #cycle == 1 then
  wrk.format = function() return cycle[1] end
else
  local at = 0
  request = function()
    at = at % #cycle + 1
    return cycle[at]
  end
end
done = function(summary)
  local e = summary.errors
  io.write(string.format("` + wrkLine + ` %d %d %d %d %d %d %d %d\n", summary.requests,
    summary.bytes, summary.duration, e.connect, e.read, e.write, e.status, e.timeout))
end
`)
	path := filepath.Join(s.dir, "wrk.lua")
	return path, os.WriteFile(path, []byte(b.String()), 0o644)
}

// quoteLua writes text as a Lua string; every byte that is not plain goes in as its number.
func quoteLua(text string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range []byte(text) {
		if c < ' ' || c == '"' || c == '\\' || c > '~' {
			fmt.Fprintf(&b, "\\%03d", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String() + `"`
}

// wrk loads the server for some seconds.
func wrk(ctx context.Context, script string, w *workload, s *site, seconds int, cpus string) (
	*load, error,
) {
	args := pin([]string{"wrk", "--threads", "1", "--connections", strconv.Itoa(w.clients),
		"--duration", strconv.Itoa(seconds) + "s", "--timeout", wrkTimeout,
		"--script", script, "http://" + s.address() + "/"}, cpus)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("wrk: %w: %.160s", err, problems.Bytes())
	}
	result, err := parseWrk(out.String())
	if err != nil {
		return nil, err
	}
	result.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return result, nil
}

func parseWrk(out string) (*load, error) {
	for line := range strings.Lines(out) {
		rest, found := strings.CutPrefix(line, wrkLine+" ")
		if !found {
			continue
		}
		var l load
		var micros, connect, read, write, status, timeout int64
		_, err := fmt.Sscan(rest, &l.requests, &l.bytes, &micros,
			&connect, &read, &write, &status, &timeout)
		if err != nil {
			return nil, fmt.Errorf("wrk: %q: %w", line, err)
		}
		l.seconds = float64(micros) / 1e6
		l.errors = map[string]int64{}
		for kind, n := range map[string]int64{openloop.FaultConnect: connect, openloop.FaultRead: read,
			openloop.FaultWrite: write, openloop.FaultStatus: status, openloop.FaultTimeout: timeout} {
			if n > 0 {
				l.errors[kind] = n
			}
		}
		return &l, nil
	}
	return nil, fmt.Errorf("wrk printed no summary: %.160q", out)
}
