package main

import (
	"os"
	"testing"
)

// TestMain lets the test binary be what bench latency starts: a crowd.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == crowdName {
		main()
		return
	}
	os.Exit(m.Run())
}
