package loop

import "testing"

// Who is owed an answer when the doors close is told by it that it is the last one; after HandOver
// it was promised another.
func TestLastAnswersSaySo(t *testing.T) {
	for _, patient := range []bool{false, true} {
		g := newRig(t, nil)
		w := g.worker()
		running, untaken, sending := g.dial(), g.dial(), g.dial()
		running.send(get("/running"))
		taken := g.take(w)
		sending.send("POST /sending HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n1")
		untaken.send(get("/untaken"))
		g.inFlight(w, 2)
		g.eventually("the body's begin", func() bool {
			begun := false
			g.on(g.loop(), func() {
				for c := range g.loop().clients {
					begun = begun || c.state == stateBody
				}
			})
			return begun
		})
		if patient {
			g.r.HandOver()
		} else {
			g.r.CloseDoors()
		}
		g.on(g.loop(), func() {})
		if taken.Last() == patient {
			t.Errorf("patient %v: running request told: %v", patient, !patient)
		}
		taken.Answer(ok("running"))
		running.want(200, "running")
		sending.send("2")
		for range 2 {
			r := g.take(w)
			if r.KeepAlive != patient {
				t.Errorf("patient %v: %s told: %v", patient, r.Path, !r.KeepAlive)
			}
			r.Answer(ok(r.Path))
		}
		untaken.want(200, "/untaken")
		sending.want(200, "/sending")
	}
}
