package pybridge

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Invariant 7: the GIL is let go and taken in one C file.
func TestGILInOneFile(t *testing.T) {
	sources, err := filepath.Glob("shim/*.c")
	if err != nil || len(sources) < 10 {
		t.Fatalf("got %v and %v, want the shim's sources", sources, err)
	}
	for _, path := range sources {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, call := range []string{"py.PyEval_SaveThread", "py.PyEval_RestoreThread",
			"py.PyGILState_Ensure", "py.PyGILState_Release"} {
			found := strings.Contains(string(text), call)
			if want := filepath.Base(path) == "gil.c"; found != want {
				t.Errorf("%s calls %s: got %v, want %v", path, call, found, want)
			}
		}
	}
}
