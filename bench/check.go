package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// The quick figures, which do not depend on what else the machine does, or little: allocations and
// times of the Go benchmarks, and instructions of the shim. `bench check` compares them with those
// of bench/figures.json.

// What counts as worse. Allocations may not grow at all.
const (
	instructionsMore = 0.03
	nanosMore        = 0.50 // a busy machine hides less than that
)

// How the Go benchmarks are run: many short ones, of which the best counts. A short one is likely
// to end before something else gets the CPU.
const (
	goBenchTime     = "3ms"
	goBenchCount    = 15
	goBenchAttempts = 4 // at all of them, while a time is worse than stored, or when storing
	checkMax        = 10 * time.Minute
)

// figures are what bench/figures.json holds.
type figures struct {
	Compiler  string                `json:"cc"`             // whose instructions the shim's are
	Reference float64               `json:"reference_ns"`   // see reference
	Go        map[string]goFigure   `json:"go"`             // by package and benchmark
	Shim      map[string]shimFigure `json:"shim_by_python"` // by sys.version
}

// goFigure is the best of one benchmark's runs.
type goFigure struct {
	Nanos  float64 `json:"ns"`
	Allocs int64   `json:"allocs"`
}

// shimFigure is a hello request in one interpreter, in instructions.
type shimFigure struct {
	Own float64 `json:"shim"` // the shim's own
	All float64 `json:"all"`  // with the interpreter's and the C library's
}

// costs is what pybridge/shim/bench/cost.py prints of one interpreter.
type costs struct {
	Python string             `json:"python"`
	Path   string             `json:"path"`
	Shim   map[string]float64 `json:"shim_instructions"`
}

func checkCommand(ctx context.Context, args []string, out io.Writer) error {
	set := flag.NewFlagSet("check", flag.ContinueOnError)
	update := set.Bool("update", false, "write what is measured instead of comparing it")
	file := set.String("figures", "bench/figures.json", "`file` of the stored figures")
	if err := set.Parse(args); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, checkMax)
	defer cancel()
	stored, err := readFigures(*file)
	if err != nil && !(*update && errors.Is(err, os.ErrNotExist)) {
		return fmt.Errorf("%w; make bench-check UPDATE=1 writes it", err)
	}
	now, notes, err := measureFigures(ctx, stored, *update)
	if err != nil {
		return err
	}
	if *update {
		return now.write(*file, stored)
	}
	lines, worse := compare(stored, now)
	for _, line := range lines {
		fmt.Fprintln(out, line)
	}
	for _, note := range notes {
		fmt.Fprintln(out, "not compared:", note)
	}
	if worse > 0 {
		return fmt.Errorf("%d figures are worse than in %s; if that is meant, make bench-check "+
			"UPDATE=1", worse, *file)
	}
	return nil
}

func readFigures(path string) (*figures, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return &figures{}, err
	}
	var f figures
	return &f, json.Unmarshal(text, &f)
}

// write keeps the stored figures of interpreters that are not here.
func (f *figures) write(path string, stored *figures) error {
	if stored.Compiler == f.Compiler {
		for python, figure := range stored.Shim {
			if _, here := f.Shim[python]; !here {
				f.Shim[python] = figure
			}
		}
	}
	text, err := json.MarshalIndent(f, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

// measureFigures measures what is stored, or with all also the interpreters that are not. The notes
// say what cannot be compared, and why.
func measureFigures(ctx context.Context, stored *figures, all bool) (*figures, []string, error) {
	now := &figures{Compiler: said(ctx, compiler(), "--version"), Shim: map[string]shimFigure{},
		Go: map[string]goFigure{}, Reference: reference()}
	// Something may have the other half of our core for a second: what is worse gets more chances.
	for attempt := range goBenchAttempts {
		if attempt > 0 && !all && !slower(stored, now) {
			break
		}
		packages := []string{"./loop", "./loop/http1", "./pybridge"}
		if err := now.runGo(ctx, packages, "."); err != nil {
			return nil, nil, err
		}
	}
	if _, err := exec.LookPath("valgrind"); err != nil {
		return now, []string{"instructions of the shim: no valgrind (apt install valgrind)"}, nil
	}
	if !all && stored.Compiler != now.Compiler {
		return now, []string{fmt.Sprintf("instructions of the shim: stored for %q, this is %q",
			stored.Compiler, now.Compiler)}, nil
	}
	notes, err := now.countInstructions(ctx, stored, all)
	return now, notes, err
}

// slower reports whether a time is worse than the stored one.
func slower(stored, now *figures) bool {
	_, worse := compare(&figures{Reference: stored.Reference, Go: stored.Go}, now)
	return worse > 0
}

// runGo runs the Go benchmarks of some packages and keeps what is better than before.
func (f *figures) runGo(ctx context.Context, packages []string, pattern string) error {
	f.Reference = min(f.Reference, reference())
	args := []string{"test", "-run=^$", "-bench=" + pattern, "-benchmem",
		"-benchtime=" + goBenchTime, "-count=" + strconv.Itoa(goBenchCount)}
	text, err := exec.CommandContext(ctx, "go", append(args, packages...)...).Output()
	if err != nil {
		return fmt.Errorf("go test -bench: %w: %s", err, text)
	}
	f.Reference = min(f.Reference, reference())
	return f.keepBest(text)
}

func compiler() string {
	if cc := os.Getenv("CC"); cc != "" {
		return cc
	}
	return "cc"
}

// countInstructions runs the shim's own benchmark on each interpreter that has a stored figure.
func (f *figures) countInstructions(ctx context.Context, stored *figures, all bool) (
	notes []string, err error,
) {
	script := filepath.Join("pybridge", "shim", "bench", "cost.py")
	ask := func(args ...string) (found []costs, err error) {
		cmd := exec.CommandContext(ctx, "python3", append([]string{script, "--json"}, args...)...)
		cmd.Stderr = os.Stderr
		text, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", script, err)
		}
		return found, json.Unmarshal(text, &found)
	}
	known, err := ask("--list")
	if err != nil {
		return nil, err
	}
	args := []string{"--runs", "0", "--instructions", "yes"}
	for _, python := range known {
		if _, found := stored.Shim[python.Python]; !found && !all {
			notes = append(notes, "instructions in Python "+python.Python+": none are stored")
			continue
		}
		args = append(args, python.Path)
	}
	if len(args) == 4 { // flags only
		return append(notes, "instructions of the shim: no Python with stored figures"), nil
	}
	found, err := ask(args...)
	for _, c := range found {
		total := 0.0
		for _, n := range c.Shim {
			total += n
		}
		f.Shim[c.Python] = shimFigure{Own: c.Shim["shim"], All: total}
	}
	return notes, err
}

// benchLine is a line of go test -bench -benchmem; the last part of a name is GOMAXPROCS.
func benchLine() *regexp.Regexp {
	return regexp.MustCompile(`^(Benchmark\S+?)(?:-\d+)?\s+\d+\s+([\d.]+) ns/op.*\s(\d+) allocs/op`)
}

// keepBest takes the least time and the fewest allocations of each benchmark: whatever else
// happens can only add to both.
func (f *figures) keepBest(text []byte) error {
	where := ""
	form := benchLine()
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		line := lines.Text()
		if pkg, found := strings.CutPrefix(line, "pkg: gophersnake/"); found {
			where = pkg
		}
		m := form.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		nanos, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			return err
		}
		allocs, err := strconv.ParseInt(m[3], 10, 64)
		if err != nil {
			return err
		}
		name := where + " " + m[1]
		if old, seen := f.Go[name]; seen {
			nanos, allocs = min(nanos, old.Nanos), min(allocs, old.Allocs)
		}
		f.Go[name] = goFigure{nanos, allocs}
	}
	if len(f.Go) == 0 {
		return fmt.Errorf("go test -bench printed no benchmark: %.200q", text)
	}
	return nil
}

// reference is how many nanoseconds a fixed piece of work takes here: times are compared as
// multiples of it, so that they travel between machines a little, and a busy one hits both.
func reference() float64 {
	const rounds, steps = 40, 1 << 20
	best := time.Duration(1 << 62)
	var sum uint64
	for range rounds {
		begin := time.Now()
		for i := range uint64(steps) {
			sum = sum*6364136223846793005 + i ^ sum>>33
		}
		best = min(best, time.Since(begin))
	}
	if sum == 0 { // never; keeps the work from being dropped
		return 1
	}
	return float64(best.Nanoseconds())
}
