package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	unitTestsMax    = 2 * time.Minute
	fixtureLinesMax = 25
)

// The Python side's own tests, on every interpreter that serves.
func TestPythonUnits(t *testing.T) {
	onEvery(t, func(t *testing.T, python interpreter) {
		ctx, cancel := context.WithTimeout(context.Background(), unitTestsMax)
		defer cancel()
		cmd := exec.CommandContext(ctx, python.path, "-m", "unittest", "discover", "-s",
			absolute("../../pybridge/boot"))
		cmd.Env = cleanEnv()
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("unittest: got %v, want success\n%s", err, out)
		}
	})
}

// A fixture is one behaviour: small, and told in its first line.
func TestFixturesAreSmall(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(fixturesDir, "*.py"))
	if err != nil || len(files) == 0 {
		t.Fatalf("fixtures: got %d files, %v", len(files), err)
	}
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Base(file)
		if lines := strings.Count(string(source), "\n"); lines > fixtureLinesMax {
			t.Errorf("%s: got %d lines, want at most %d", name, lines, fixtureLinesMax)
		}
		if !strings.HasPrefix(string(source), `"""`) {
			t.Errorf("%s: got %.40q, want a docstring first", name, source)
		}
	}
}
