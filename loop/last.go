package loop

// sayLast makes the answers that are owed when the doors close say that they are the last ones of
// their connections (RFC 9112 §9.6: a server that closes should send the close option). A client
// that is not told may send its next request just when we close. After HandOver it may: that was
// promised.
func (l *loop) sayLast() {
	if l.reactor.patient.Load() {
		return
	}
	for c := range l.clients {
		switch {
		case c.state == stateBody || c.state == stateQueued:
			c.lastOne = true
		case c.state == stateRunning && !c.begun && !c.upgraded && !c.lane.down:
			c.lane.bridge.MarkLast(c.slot)
			c.lastOne = true // also where it moves to another worker
		}
	}
}
