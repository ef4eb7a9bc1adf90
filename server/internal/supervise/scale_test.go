package supervise

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
)

func TestScale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 2, readyAtOnce, func(e *Env) { e.WorkersMax = 4 })
		for _, c := range []struct {
			name  string
			order func() error
			good  bool
			want  int
		}{
			{"up", func() error { return b.s.Scale(4) }, true, 4},
			{"too many", func() error { return b.s.Scale(5) }, false, 4},
			{"one more than possible", func() error { return b.s.Grow(1) }, false, 4},
			{"one less", func() error { return b.s.Grow(-1) }, true, 3},
			{"down", func() error { return b.s.Scale(1) }, true, 1},
			{"none", func() error { return b.s.Grow(-1) }, false, 1},
			{"negative", func() error { return b.s.Scale(-1) }, false, 1},
			{"the same", func() error { return b.s.Scale(1) }, true, 1},
		} {
			err := c.order()
			synctest.Wait()
			if (err == nil) != c.good || b.in != c.want {
				t.Errorf("%s: got %v and %d workers, want success %v and %d", c.name, err, b.in,
					c.good, c.want)
			}
		}
		b.calls = slices.DeleteFunc(b.calls, func(c string) bool { return c[:3] == "add" })
		b.wantCalls("drain 4", "drain 2", "drain 3")
		b.end()
		if err := b.s.Scale(2); !errors.Is(err, ErrStopping) {
			t.Errorf("after the end: got %v, want %v", err, ErrStopping)
		}
	})
}

// A reload takes on the number that is wanted when it is done.
func TestScaleDuringAReload(t *testing.T) {
	for _, n := range []int{1, 2, 5} {
		synctest.Test(t, func(t *testing.T) {
			b := newReadyBench(t, 3)
			defer b.end()
			b.next(func(w *fakeWorker) error {
				if w.id == 4 { // the one that leads the new generation
					close(w.ready)
				}
				return nil
			})
			answer := b.reload()
			b.fresh()
			if err := b.s.Scale(n); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if n == 1 {
				b.wantCalls("drain 2", "drain 3", "add 4 drain 1")
				if err := <-answer; err != nil {
					t.Fatal(err)
				}
				return
			}
			b.wantNone(answer, "a new worker is not ready")
			for _, w := range b.workers()[4:] {
				select {
				case <-w.done:
				default:
					close(w.ready)
				}
			}
			if err := <-answer; err != nil {
				t.Fatal(err)
			}
			if b.in != n {
				t.Errorf("%d workers take requests, want %d", b.in, n)
			}
		})
	}
}
