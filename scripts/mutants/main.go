// Command mutants asks whether the tests of a package would notice if one of its checks were gone.
//
//	go run ./scripts/mutants [-only TEXT] [-list] PACKAGE_DIR
//
// A check is the condition of an if or of a case without a switch value, and each operand of && and
// || outside loop conditions. One at a time is dropped: a whole condition becomes false, an operand
// becomes what leaves the others to decide. The mutant is built with an overlay, so the files stay
// as they are; the package's tests must fail. A condition under a comment that begins "Only for
// speed" changes no result, and is left alone.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// testTimeout ends a mutant that loops for ever; the tests themselves take a tenth of it.
const testTimeout = "30s"

// mutant is one dropped check: bytes from to to of the file are put in brackets after a prefix that
// decides without them.
type mutant struct {
	file     string
	line     int
	from, to int
	prefix   string // "false && " or "true || "
	text     string
}

func main() {
	only := flag.String("only", "", "run only mutants whose file:line or text contains this")
	list := flag.Bool("list", false, "list the mutants, run none")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: mutants [-only TEXT] [-list] PACKAGE_DIR")
		os.Exit(2)
	}
	survivors, err := run(flag.Arg(0), *only, *list)
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(2)
	}
	if survivors > 0 {
		os.Exit(1)
	}
}

// run tries the mutants of every file of the package in dir and returns how many survive.
func run(dir, only string, list bool) (survivors int, err error) {
	temp, err := os.MkdirTemp("", "mutants")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(temp)
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return 0, err
	}
	count := 0
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		source, err := os.ReadFile(path)
		if err != nil {
			return 0, err
		}
		mutants, err := find(filepath.Base(path), source)
		if err != nil {
			return 0, err
		}
		for _, m := range mutants {
			label := fmt.Sprintf("%s:%d: %s(%s)", m.file, m.line, m.prefix, m.text)
			if !strings.Contains(label, only) {
				continue
			}
			count++
			if list {
				fmt.Println(label)
				continue
			}
			killed, err := try(path, temp, m.apply(source))
			if err != nil {
				return 0, fmt.Errorf("%s: %w", label, err)
			}
			if !killed {
				survivors++
				fmt.Println("survives:", label)
			}
		}
	}
	fmt.Printf("%d mutants, %d survive\n", count, survivors)
	return survivors, nil
}

func (m mutant) apply(source []byte) []byte {
	var b bytes.Buffer
	b.Write(source[:m.from])
	fmt.Fprintf(&b, "(%s(%s))", m.prefix, source[m.from:m.to])
	b.Write(source[m.to:])
	return b.Bytes()
}

// try reports whether the tests fail with the file at path replaced.
func try(path, temp string, source []byte) (killed bool, err error) {
	path, err = filepath.Abs(path)
	if err != nil {
		return false, err
	}
	replaced := filepath.Join(temp, "mutant.go")
	if err := os.WriteFile(replaced, source, 0o600); err != nil {
		return false, err
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{path: replaced}})
	if err != nil {
		return false, err
	}
	overlayPath := filepath.Join(temp, "overlay.json")
	if err := os.WriteFile(overlayPath, overlay, 0o600); err != nil {
		return false, err
	}
	cmd := exec.Command("go", "test", "-overlay", overlayPath, "-vet=off", "-failfast",
		"-timeout", testTimeout, ".")
	cmd.Dir = filepath.Dir(path)
	out, err := cmd.CombinedOutput()
	if err == nil {
		return false, nil
	}
	if bytes.Contains(out, []byte("[build failed]")) || bytes.Contains(out, []byte("[setup failed]")) {
		return false, fmt.Errorf("does not build:\n%s", out)
	}
	return true, nil
}

// finder collects the mutants of one file.
type finder struct {
	name    string
	source  []byte
	fset    *token.FileSet
	skip    map[int]bool // lines right after an "Only for speed" comment
	mutants []mutant
}

func find(name string, source []byte) ([]mutant, error) {
	f := &finder{name: name, source: source, fset: token.NewFileSet(), skip: map[int]bool{}}
	file, err := parser.ParseFile(f.fset, name, source, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	for _, group := range file.Comments {
		if strings.HasPrefix(group.Text(), "Only for speed") {
			f.skip[f.fset.Position(group.End()).Line+1] = true
		}
	}
	ast.Inspect(file, f.visit)
	return f.mutants, nil
}

func (f *finder) visit(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.IfStmt:
		if f.skip[f.fset.Position(n.Pos()).Line] {
			ast.Inspect(n.Body, f.visit)
			return false
		}
		f.drop(n.Cond, "false && ")
		f.operands(n.Cond)
		ast.Inspect(n.Body, f.visit)
		if n.Else != nil {
			ast.Inspect(n.Else, f.visit)
		}
		return false
	case *ast.ForStmt:
		ast.Inspect(n.Body, f.visit)
		return false
	case *ast.SwitchStmt:
		for _, clause := range n.Body.List {
			clause := clause.(*ast.CaseClause)
			for _, cond := range clause.List {
				if n.Tag == nil {
					f.drop(cond, "false && ")
					f.operands(cond)
				}
			}
			for _, stmt := range clause.Body {
				ast.Inspect(stmt, f.visit)
			}
		}
		return false
	case *ast.BinaryExpr:
		f.operands(n)
		return false
	}
	return true
}

// operands drops each operand of && and ||, however deep they nest.
func (f *finder) operands(e ast.Expr) {
	switch e := e.(type) {
	case *ast.ParenExpr:
		f.operands(e.X)
	case *ast.UnaryExpr:
		f.operands(e.X)
	case *ast.BinaryExpr:
		prefix := ""
		switch e.Op {
		case token.LAND:
			prefix = "true || "
		case token.LOR:
			prefix = "false && "
		default:
			return
		}
		for _, side := range []ast.Expr{e.X, e.Y} {
			if b, ok := side.(*ast.BinaryExpr); !ok || b.Op != e.Op {
				f.drop(side, prefix)
			}
			f.operands(side)
		}
	}
}

func (f *finder) drop(e ast.Expr, prefix string) {
	from, to := f.fset.Position(e.Pos()), f.fset.Position(e.End())
	text := strings.Join(strings.Fields(string(f.source[from.Offset:to.Offset])), " ")
	m := mutant{f.name, from.Line, from.Offset, to.Offset, prefix, text}
	f.mutants = append(f.mutants, m)
}
