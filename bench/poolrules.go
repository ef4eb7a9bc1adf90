package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// The binaries of bench pool: those that were named, or both rules built from the sources.

func findRules(ctx context.Context, root string, given []string) ([]poolRule, error) {
	if len(given) == 0 {
		return buildRules(ctx, root)
	}
	var rules []poolRule
	for _, text := range given {
		name, binary, found := strings.Cut(text, "=")
		if !found || name == "" || strings.ContainsAny(name, `/ |`) {
			return nil, fmt.Errorf("%q: give NAME=BINARY", text)
		}
		path, err := filepath.Abs(binary)
		if err != nil {
			return nil, err
		}
		if _, err := exec.LookPath(path); err != nil {
			return nil, err
		}
		rules = append(rules, poolRule{name, path})
	}
	return rules, nil
}

// buildTags is what the Makefile builds with.
const buildTags = "-tags=poll_opt"

// buildRules builds gophersnake twice: as it is, and with the shim of the plain pool laid over
// the one that is embedded.
func buildRules(ctx context.Context, root string) ([]poolRule, error) {
	shim := filepath.Join(root, "pybridge", "shim")
	into := filepath.Join(root, "build", "bench")
	if err := os.MkdirAll(into, 0o755); err != nil {
		return nil, err
	}
	text, err := json.Marshal(map[string]map[string]string{"Replace": {
		filepath.Join(shim, "gophersnake_shim.so"): filepath.Join(shim, "build", "plain.so")}})
	if err != nil {
		return nil, err
	}
	overlay := filepath.Join(into, "plain.json")
	if err := os.WriteFile(overlay, text, 0o644); err != nil {
		return nil, err
	}
	rules := []poolRule{{"ours", filepath.Join(into, "gophersnake-ours")},
		{"plain", filepath.Join(into, "gophersnake-plain")}}
	for _, args := range [][]string{
		{"make", "--directory=" + shim, "all", "plain"},
		{"go", "build", buildTags, "-o", rules[0].Binary, "./server"},
		{"go", "build", buildTags, "-overlay", overlay, "-o", rules[1].Binary, "./server"},
	} {
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
		if said, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%s: %w: %.500s", strings.Join(args, " "), err, said)
		}
	}
	return rules, nil
}
