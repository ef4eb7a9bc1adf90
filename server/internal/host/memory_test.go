package host

import (
	"os"
	"testing"
)

func TestResidentBytes(t *testing.T) {
	before := ResidentBytes(os.Getpid())
	if before < 1<<20 {
		t.Fatalf("this process: got %d bytes, want at least a MiB", before)
	}
	const more = 32 << 20
	block := make([]byte, more)
	for i := 0; i < len(block); i += 4096 {
		block[i] = 1
	}
	// Half of it: what else the process holds may shrink meanwhile.
	if grown := ResidentBytes(os.Getpid()) - before; grown < more/2 {
		t.Errorf("grown by %d bytes, want about %d", grown, more)
	}
	_ = block[0]
	if got := ResidentBytes(-1); got != 0 {
		t.Errorf("no process: got %d bytes, want 0", got)
	}
}
