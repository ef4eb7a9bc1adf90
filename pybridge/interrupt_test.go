package pybridge

import (
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// The thread of a hung request gets gophersnake.RequestTimeout, which the app sees; then it serves
// again.
func TestInterrupt(t *testing.T) {
	onEvery(t, func(t *testing.T, python string) {
		t.Parallel()
		p := launchReady(t, python, "hangs", 1)
		for _, way := range []string{"/spin", "/nap"} {
			slot, generation := p.submit(path(way))
			p.stacks(`GET ` + way)
			p.Interrupt(0, slot, generation+1) // of another request
			p.Interrupt(0, slot+1, generation)
			p.Interrupt(1, slot, generation)
			p.stacks(`GET ` + way) // it goes on
			p.Interrupt(0, slot, generation)
			wire, _ := p.collect(slot, generation)
			if !strings.HasPrefix(wire, "HTTP/1.1 500 ") {
				t.Errorf("%s: got %q, want a 500", way, wire)
			}
			p.await("timed out in " + way + ": the answer did not begin within --timeout")
			p.want("/fine", "/fine")
		}
		p.quit()
	})
}

// interrupts is how often TestLateInterrupts tries to hit the wrong request.
func interrupts() int {
	if os.Getenv("GOPHERSNAKE_FAULT") != "" {
		return 3000
	}
	return 150
}

// An exception that comes too late for its request never hits the next one, whatever the moment:
// before, while and after C code runs that the request ends with.
func TestLateInterrupts(t *testing.T) {
	onEvery(t, func(t *testing.T, python string) {
		t.Parallel()
		seed := uint64(time.Now().UnixNano())
		random := rand.New(rand.NewPCG(seed, 0))
		p := launchReady(t, python, "interrupted", 1)
		const want = "not hit"
		hit := 0
		for range interrupts() {
			slot, generation := p.submit(path([]string{"/c", "/python"}[random.IntN(2)]))
			wait := time.Duration(random.Int64N(int64(2 * time.Millisecond)))
			var sent sync.WaitGroup
			sent.Add(1)
			go func() {
				defer sent.Done()
				for end := time.Now().Add(wait); time.Now().Before(end); {
				}
				p.Interrupt(0, slot, generation)
			}()
			if wire, _ := p.collect(slot, generation); strings.Contains(wire, "RequestTimeout") {
				hit++
			}
			for range 2 {
				if status, got := p.ask(path("/python")); status != 200 || got != want {
					t.Fatalf("seed %d: got %d %q, want %q\n%s", seed, status, got, want, p.text())
				}
			}
			sent.Wait()
		}
		t.Logf("%d of %d requests were interrupted", hit, interrupts())
		p.quit()
	})
}
