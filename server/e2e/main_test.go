// Package e2e drives the real binary over real sockets, with every interpreter that
// scripts/venv.sh has prepared. It holds tests only.
//
// A test never sleeps to wait: it waits for bytes, for a line in the log, for a process to end,
// or polls a condition, each with a deadline. Ports are always 0.
package e2e

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// Deadlines: far beyond what a good run needs, so that only a hang meets them.
const (
	startMax  = 60 * time.Second // from exec to "listening on"
	stopMax   = 40 * time.Second // from SIGTERM to the exit
	answerMax = 20 * time.Second // of one exchange on a socket
	orphanMax = 10 * time.Second // from the parent's end to the last worker's
	pollEvery = 5 * time.Millisecond
)

const (
	fixturesDir = "../../pybridge/apps"
	appsDir     = "apps"
)

func TestMain(m *testing.M) {
	flag.Parse() // for -short
	for _, missing := range []string{missingBinary(), missingPythons()} {
		if missing != "" {
			fmt.Fprintln(os.Stderr, "e2e: "+missing)
			os.Exit(1)
		}
	}
	goleak.VerifyTestMain(m)
}

func missingBinary() string {
	if _, err := os.Stat(binary()); err != nil {
		return binary() + " is missing; run: make build"
	}
	return ""
}

func missingPythons() string {
	if len(pythons()) == 0 {
		return "no virtual environment in build/venv-*; run: scripts/venv.sh"
	}
	return ""
}

// binary is what is tested: $GOPHERSNAKE_BIN or bin/gophersnake of this tree.
func binary() string {
	if path := os.Getenv("GOPHERSNAKE_BIN"); path != "" {
		return path
	}
	return absolute("../../bin/gophersnake")
}

// interpreter is one virtual environment that has the frameworks.
type interpreter struct {
	name string // "3.12": the end of the folder's name
	path string // of bin/python, absolute, links not followed
}

// pythons lists the environments: those that match $GOPHERSNAKE_VENVS, or build/venv-*. With
// -short only the last one, which is the newest.
func pythons() []interpreter {
	venvs := os.Getenv("GOPHERSNAKE_VENVS")
	if venvs == "" {
		venvs = absolute("../../build/venv-*")
	}
	paths, _ := filepath.Glob(filepath.Join(venvs, "bin", "python"))
	var found []interpreter
	for _, path := range paths {
		folder := filepath.Base(filepath.Dir(filepath.Dir(path)))
		found = append(found, interpreter{strings.TrimPrefix(folder, "venv-"), path})
	}
	// By length first: 3.9 comes before 3.10.
	sort.Slice(found, func(i, j int) bool {
		a, b := found[i].name, found[j].name
		return len(a) < len(b) || len(a) == len(b) && a < b
	})
	if testing.Short() && len(found) > 0 {
		found = found[len(found)-1:]
	}
	return found
}

// onEvery runs one subtest for each interpreter, named by its version.
func onEvery(t *testing.T, test func(t *testing.T, python interpreter)) {
	for _, python := range pythons() {
		t.Run(python.name, func(t *testing.T) { test(t, python) })
	}
}

// anyPython is for what does not depend on the interpreter.
func anyPython() interpreter {
	all := pythons()
	return all[len(all)-1]
}

func absolute(path string) string {
	path, err := filepath.Abs(path)
	if err != nil {
		panic(err) // the working directory is gone
	}
	return path
}

// eventually polls a condition that no event tells of, such as the state of a process.
func eventually(t *testing.T, limit time.Duration, what string, condition func() bool) {
	t.Helper()
	if !within(limit, condition) {
		t.Fatalf("within %v: want %s", limit, what)
	}
}

func within(limit time.Duration, condition func() bool) bool {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for end := time.Now().Add(limit); !condition(); <-tick.C {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}
