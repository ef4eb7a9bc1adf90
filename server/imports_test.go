package main

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// root is the repository seen from this package.
const root = ".."

// importRules says what a package may import of ours; the longest matching path counts. An
// entry stands for the package and, with /..., for all below it. Tests of a package keep the
// same rules, except that those in server/e2e start the binary and so import nothing.
var importRules = map[string][]string{
	"server":          {"loop", "pybridge/...", "server/internal/...", "bench/openloop"},
	"server/internal": {"server/internal/..."},
	"server/e2e":      {},
	"loop":            {"loop/http1", "pybridge/..."},
	"loop/http1":      {},
	"pybridge":        {"pybridge/..."},
	"bench":           {"bench/openloop"},
	"bench/openloop":  {},
	"scripts":         {},
}

// Invariant: imports go one way, as the layout in the README draws them: server to loop to
// pybridge. Only loop knows gnet, only the parser's package knows wildcat.
func TestImportTable(t *testing.T) {
	for file, imports := range importsOfAllFiles(t) {
		from := filepath.ToSlash(filepath.Dir(file))
		for _, path := range imports {
			if strings.HasPrefix(path, "github.com/panjf2000/") && from != "loop" {
				t.Errorf("%s imports %s: only loop may", file, path)
			}
			if strings.HasPrefix(path, "github.com/evanphx/wildcat") && from != "loop/http1" {
				t.Errorf("%s imports %s: only loop/http1 may", file, path)
			}
			to, ours := strings.CutPrefix(path, "gophersnake/")
			if ours && to != from && !allowed(rulesOf(from), to) {
				t.Errorf("%s imports %s: not in the table", file, path)
			}
			if path == "C" {
				t.Errorf("%s uses cgo: the binary is static and needs no compiler", file)
			}
		}
	}
}

// rulesOf finds the rules of the nearest package at or above from; none allow nothing.
func rulesOf(from string) []string {
	for at := from; at != "."; at = filepath.ToSlash(filepath.Dir(at)) {
		if rules, found := importRules[at]; found {
			return rules
		}
	}
	return nil
}

func allowed(rules []string, to string) bool {
	for _, rule := range rules {
		tree, isTree := strings.CutSuffix(rule, "/...")
		if to == tree || isTree && strings.HasPrefix(to, tree+"/") {
			return true
		}
	}
	return false
}

// importsOfAllFiles maps each Go file of the repository to what it imports.
func importsOfAllFiles(t *testing.T) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		if entry.IsDir() && path != root && (name == "build" || name == "bin" ||
			name == "testdata" || strings.HasPrefix(name, ".")) {
			return filepath.SkipDir
		}
		if entry.IsDir() || filepath.Ext(name) != ".go" {
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		file, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		all[file] = nil
		for _, spec := range parsed.Imports {
			path, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			all[file] = append(all[file], path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 10 {
		t.Fatalf("found %d Go files: is %s the repository?", len(all), root)
	}
	return all
}

func TestImportTableFindsTrespassers(t *testing.T) {
	for _, c := range []struct {
		from, to string
		want     bool
	}{
		{"server", "loop", true},
		{"server", "server/internal/config", true},
		{"server", "loop/http1", false},
		{"server/internal/supervise", "loop", false},
		{"server/internal/config", "server/internal/logs", true},
		{"loop", "pybridge", true},
		{"loop", "server/internal/logs", false},
		{"loop/http1", "pybridge", false},
		{"pybridge", "loop", false},
		{"pybridge/boot", "pybridge", true},
		{"bench", "bench/openloop", true},
		{"bench", "loop", false},
		{"bench/openloop", "bench", false},
		{"elsewhere", "loop", false},
	} {
		if got := allowed(rulesOf(c.from), c.to); got != c.want {
			t.Errorf("%s may import %s: %v, want %v", c.from, c.to, got, c.want)
		}
	}
}
