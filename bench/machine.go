package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// machine is what a reader must know before the numbers.
type machine struct {
	Date      string `json:"date"`
	CPU       string `json:"cpu"`
	CPUs      int    `json:"cpus"`
	MemoryMiB uint64 `json:"memory_mib"`
	Kernel    string `json:"kernel"`
	System    string `json:"system"`
	Governor  string `json:"governor"`
	Load      string `json:"load"` // averages when the run began: others' work
	Python    string `json:"python"`
	Go        string `json:"go"`
	Wrk       string `json:"wrk"`
	Commit    string `json:"commit"`
}

func inspect(ctx context.Context, root, python string) machine {
	m := machine{
		Date:     time.Now().UTC().Format("2006-01-02 15:04 MST"),
		CPU:      valueIn("/proc/cpuinfo", "model name", ":"),
		CPUs:     runtime.NumCPU(),
		System:   strings.Trim(valueIn("/etc/os-release", "PRETTY_NAME", "="), `"`),
		Governor: firstLine("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
		Load:     firstLine("/proc/loadavg"),
		Python:   said(ctx, python, "-c", "import sys; print(sys.version.split()[0], sys.executable)"),
		Go:       runtime.Version(),
		Wrk:      strings.TrimPrefix(strings.SplitN(said(ctx, "wrk", "-v"), " [", 2)[0], "wrk "),
		Commit:   commitOf(ctx, root),
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		m.MemoryMiB = info.Totalram * uint64(info.Unit) >> 20
	}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		m.Kernel = unix.ByteSliceToString(name.Release[:])
	}
	return m
}

// commitOf names the commit, and says if anything has changed since but what runs write.
func commitOf(ctx context.Context, root string) string {
	commit := said(ctx, "git", "-C", root, "rev-parse", "--short", "HEAD")
	changed, err := exec.CommandContext(ctx, "git", "-C", root, "status", "--porcelain",
		"--untracked-files=no", "--", ".", ":!BENCHMARKS.md", ":!bench/results",
		":!bench/charts").Output()
	if err == nil && len(changed) > 0 {
		commit += "-dirty"
	}
	return commit
}

func firstLine(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return "unknown"
	}
	line, _, _ := strings.Cut(string(text), "\n")
	return line
}

// valueIn finds the first line "key SEPARATOR value" of a file.
func valueIn(path, key, separator string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(text)) {
		name, value, found := strings.Cut(line, separator)
		if found && strings.TrimSpace(name) == key {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

// said is the first line a command prints, whatever its exit code: wrk -v ends with 1.
func said(ctx context.Context, args ...string) string {
	out, _ := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	if line == "" {
		return "unknown"
	}
	return line
}

// version asks a peer's environment or program what it is.
func (p *peer) version(ctx context.Context, root string) string {
	switch {
	case p.name == ours || p.alone:
		return strings.TrimPrefix(
			said(ctx, filepath.Join(root, "bin", "gophersnake"), "version"), "gophersnake ")
	case p.dist != "":
		return said(ctx, filepath.Join(venvDir(root, p.kit), "bin", "python"), "-c",
			"import sys, importlib.metadata as m; print(m.version(sys.argv[1]))", p.dist)
	}
	return strings.TrimPrefix(said(ctx, p.name, "-v"), p.name+" version: "+p.name+"/")
}
