package loop

import "testing"

const askUpgrade = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n" +
	"Upgrade: websocket\r\n\r\n"

// The time of an app that talks to its client by itself is its own, also where the request has come
// to it from a worker that died.
func TestUpgradedHasNoDeadline(t *testing.T) {
	t.Parallel()
	g, w := newPool(t, 1, 1, func(c *Config) { c.WebSocket = true })
	g.hold(w[0])
	p := g.dial()
	p.send(askUpgrade)
	g.inFlight(w[0], 2)
	g.wantNoDeadline()
	w[0].Kill()
	g.take(g.worker())
	g.wantNoDeadline()
}

// wantNoDeadline looks at the upgraded client.
func (g *rig) wantNoDeadline() {
	g.t.Helper()
	upgraded := 0
	g.on(g.loop(), func() {
		for c := range g.loop().clients {
			if !c.upgraded {
				continue
			}
			upgraded++
			if c.timer.kind != timerNone {
				g.t.Errorf("deadline: got one of kind %d, want none", c.timer.kind)
			}
		}
	})
	if upgraded != 1 {
		g.t.Errorf("upgraded clients: got %d, want 1", upgraded)
	}
}

// A client whose upgrade no thread began in time sees the end of its connection, although the
// worker has a descriptor of it.
func TestLateUpgradeEnds(t *testing.T) {
	t.Parallel()
	g, w := newPool(t, 1, 1, func(c *Config) { c.WebSocket, c.QueueTimeout = true, holdable })
	g.hold(w[0])
	p := g.dial()
	p.send(askUpgrade)
	p.want(503, "")
	p.wantClosed()
}
