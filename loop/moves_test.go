package loop

import (
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gophersnake/pybridge"
)

// The load of TestFaultMoves.
const (
	moveClients = 24
	moveWorkers = 3
	moveThreads = 2
	moveBodyMax = 1_200_000 // some bodies are in files
)

// Requests that move while workers stand still, are replaced and die, and while clients vanish,
// are answered with their own answers, or 502 where a worker died.
func TestFaultMoves(t *testing.T) {
	seed, rounds := uint64(os.Getpid()), 6
	if fullFaults() {
		rounds = 100
	}
	t.Logf("seed %d", seed)
	g := newRig(t, func(c *Config) { c.Loops, c.QueueMax = 2, 1000 })
	g.threads = moveThreads
	var workers []*pybridge.Scripted
	for n := range moveWorkers {
		workers = append(workers, g.slowWorker(seed+uint64(n)))
		g.r.AddWorker(workers[n])
	}
	var clients sync.WaitGroup
	stop := make(chan struct{})
	done, failed := &atomic.Int64{}, &atomic.Int64{}
	for n := range moveClients {
		dice := rand.New(rand.NewPCG(seed, uint64(n)))
		clients.Go(func() { g.mover(dice, stop, done, failed) })
	}
	dice := rand.New(rand.NewPCG(seed, 99))
	deaths := 0
	for round := range rounds {
		more := done.Load() + 20 + dice.Int64N(50)
		g.eventually("more answers", func() bool { return done.Load() > more })
		old, next := workers[round%moveWorkers], g.slowWorker(seed+uint64(100+round))
		workers[round%moveWorkers] = next
		if dice.IntN(2) == 0 {
			old.Kill()
			g.r.RemoveWorker(old)
			g.r.AddWorker(next)
			deaths++
			continue
		}
		_, drained := g.r.SwitchWorkers([]Worker{next}, []Worker{old})
		g.closed("drained", drained[0])
		g.r.RemoveWorker(old)
	}
	close(stop)
	clients.Wait()
	s := g.r.Stats()
	t.Logf("%d answers, %d failed in %d deaths, %d moved, %d after a death", done.Load(),
		failed.Load(), deaths, s.Stolen, s.Moved)
	if failed.Load() > int64(deaths*moveThreads) {
		t.Errorf("failed: got %d in %d deaths of %d threads", failed.Load(), deaths, moveThreads)
	}
	if s.Stolen == 0 || s.Panics+s.Corrupt+s.Disagreement != 0 {
		t.Errorf("got %+v, want requests that moved and no mishaps", s)
	}
}

// slowWorker answers each request with the sum of what it got, and stands still now and then.
func (g *rig) slowWorker(seed uint64) *pybridge.Scripted {
	w := g.unadded()
	dice := rand.New(rand.NewPCG(seed, 7))
	g.serve(w, func(r *pybridge.Taken) string {
		sum := crc32.NewIEEE()
		if r.BodyFile != nil {
			body := make([]byte, r.BodyLen)
			_, _ = r.BodyFile.ReadAt(body, 0)
			_ = r.BodyFile.Close()
			_, _ = sum.Write(body)
		}
		_, _ = sum.Write(r.Body)
		if dice.IntN(8) == 0 { // it takes its time, as an app does
			<-time.NewTimer(time.Duration(dice.IntN(30)) * time.Millisecond).C
		}
		return ok(fmt.Sprintf("%s %d", r.Target, sum.Sum32()))
	})
	return w
}

// mover is one client after the other, each with some requests.
func (g *rig) mover(dice *rand.Rand, stop chan struct{}, done, failed *atomic.Int64) {
	var p *peer
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		default:
		}
		if p == nil {
			p = g.dial()
		}
		body := strings.Repeat(string(rune('a'+dice.IntN(26))), bodySize(dice))
		target := fmt.Sprintf("/%d?%d", n, dice.Uint64())
		p.send(fmt.Sprintf("POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", target,
			len(body), body))
		if dice.IntN(20) == 0 {
			p.reset()
			p = nil
			continue
		}
		status, got, err := p.answer()
		want := fmt.Sprintf("%s %d", target, crc32.ChecksumIEEE([]byte(body)))
		switch {
		case err == nil && status == 502:
			failed.Add(1)
			_ = p.Close()
			p = nil
		case err != nil || status != 200 || got != want:
			g.t.Errorf("got %d %q %v, want %q", status, got, err, want)
			return
		default:
			done.Add(1)
		}
	}
}

// bodySize is mostly small: in the slot, in the arena or in a file.
func bodySize(dice *rand.Rand) int {
	switch dice.IntN(10) {
	case 0:
		return dice.IntN(moveBodyMax)
	case 1, 2:
		return dice.IntN(200_000)
	}
	return dice.IntN(2000)
}
