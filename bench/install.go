package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// need is something that pip does not bring: a program, or a header for what pip compiles.
type need struct {
	what   string // the program's or the header's name
	called string
	advice string
}

// missing reports whether n is not there. Python's own header lies where its sysconfig says.
func (n need) missing(ctx context.Context, python string) bool {
	switch {
	case n.what == "Python.h":
		return exec.CommandContext(ctx, python, "-c", `import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))`).
			Run() != nil
	case strings.HasSuffix(n.what, ".h"):
		cc := exec.CommandContext(ctx, "cc", "-E", "-x", "c", "-")
		cc.Stdin = strings.NewReader("#include <" + n.what + ">\n")
		return cc.Run() != nil
	}
	_, err := exec.LookPath(n.what)
	return err != nil
}

// frameworks is the environment with what the apps import. It is made once: Django alone is
// 40 MB.
const frameworks = "frameworks"

func venvDir(root, kit string) string { return filepath.Join(root, "build", "bench", "venv-"+kit) }

// findPython picks the interpreter that all servers use: the distribution's where it can make
// environments, because what compiles against it finds a matching library there.
func findPython(ctx context.Context, asked string) (string, error) {
	candidates := []string{asked}
	if asked == "" {
		candidates = []string{"/usr/bin/python3", "python3"}
	}
	for _, candidate := range candidates {
		check := exec.CommandContext(ctx, candidate, "-c", "import ensurepip, venv")
		if check.Run() == nil {
			return exec.LookPath(candidate)
		}
	}
	return "", fmt.Errorf("none of %s can make virtual environments: apt install python3-venv",
		strings.Join(candidates, ", "))
}

// install makes the environments of the given peers. It returns why a peer cannot be had, by
// its name; an error is for what stops everything.
func install(ctx context.Context, root, python string, all []peer, say io.Writer) (
	map[string]string, error,
) {
	if err := makeVenv(ctx, root, python, frameworks, say); err != nil {
		return nil, fmt.Errorf("frameworks: %w", err)
	}
	lacking := map[string]string{}
	kits := map[string]error{}
	for i := range all {
		p := &all[i]
		for _, n := range p.needs {
			if n.missing(ctx, python) && lacking[p.name] == "" {
				lacking[p.name] = fmt.Sprintf("%s not found: %s", n.called, n.advice)
			}
		}
		if closed := closedTo(root); p.stranger && os.Getuid() == 0 && closed != "" {
			lacking[p.name] = fmt.Sprintf("runs as %s, who may not enter %s: clone the repository "+
				"elsewhere", apacheUser, closed)
		}
		if p.kit == "" || lacking[p.name] != "" {
			continue
		}
		failed, tried := kits[p.kit]
		if !tried {
			failed = makeVenv(ctx, root, python, p.kit, say)
			kits[p.kit] = failed
		}
		if failed != nil {
			lacking[p.name] = failed.Error()
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	return lacking, nil
}

// closedTo finds a directory on the way to dir, or dir, that others may not enter; "" is none.
func closedTo(dir string) string {
	for {
		info, err := os.Stat(dir)
		if err != nil || info.Mode()&0o001 == 0 {
			return dir
		}
		up := filepath.Dir(dir)
		if up == dir {
			return ""
		}
		dir = up
	}
}

// makeVenv makes one environment, unless it is there already with the same requirements.
func makeVenv(ctx context.Context, root, python, kit string, say io.Writer) error {
	dir := venvDir(root, kit)
	own := filepath.Join(root, "bench", "peers", kit+".txt")
	want, err := stampOf(ctx, python, own)
	if err != nil {
		return err
	}
	stamp := filepath.Join(dir, ".stamp")
	if have, err := os.ReadFile(stamp); err == nil && bytes.Equal(have, want) {
		return nil
	}
	fmt.Fprintf(say, "installing %s\n", kit)
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	log, err := os.Create(dir + ".log")
	if err != nil {
		return err
	}
	defer log.Close()
	inside := filepath.Join(dir, "bin", "python")
	for _, args := range [][]string{
		{python, "-m", "venv", dir},
		{inside, "-m", "pip", "install", "--no-input", "--disable-pip-version-check",
			"--requirement", own},
	} {
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Stdout, cmd.Stderr = log, log
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("cannot be installed: %s", reason(log.Name(), err))
		}
	}
	if kit != frameworks {
		if err := linkFrameworks(ctx, inside, venvDir(root, frameworks)); err != nil {
			return err
		}
	}
	return os.WriteFile(stamp, want, 0o644)
}

// linkFrameworks adds the packages of the environment with the frameworks to another one. They
// come last on its path, so that a server finds its own version of a library that both have.
func linkFrameworks(ctx context.Context, inside, from string) error {
	const ask = `import sysconfig; print(sysconfig.get_path("purelib"))`
	theirs, err := exec.CommandContext(ctx, filepath.Join(from, "bin", "python"), "-c", ask).Output()
	if err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	mine, err := exec.CommandContext(ctx, inside, "-c", ask).Output()
	if err != nil {
		return fmt.Errorf("%s: %w", inside, err)
	}
	link := filepath.Join(strings.TrimSpace(string(mine)), "frameworks.pth")
	return os.WriteFile(link, theirs, 0o644)
}

func stampOf(ctx context.Context, python string, files ...string) ([]byte, error) {
	version, err := exec.CommandContext(ctx, python, "-c",
		"import sys; print(sys.version, sys.executable)").Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", python, err)
	}
	sum := sha256.New()
	sum.Write(version)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		sum.Write(text)
	}
	return fmt.Appendf(nil, "%x\n", sum.Sum(nil)), nil
}

// reason picks the line of pip's log that says most; pip's own last words say only that the
// build failed.
func reason(log string, failed error) string {
	text, err := os.ReadFile(log)
	if err != nil {
		return errors.Join(failed, err).Error()
	}
	found := failed.Error()
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if strings.Contains(strings.ToLower(line), "error: ") {
			found = line
			if !strings.Contains(line, "subprocess-exited") {
				break
			}
		}
	}
	return found[:min(len(found), messageMax)] + " (" + filepath.Base(log) + ")"
}
