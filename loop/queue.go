package loop

// queue holds clients whose complete request waits for a lane with room, first come first
// served, linked through what is kept of their requests.
type queue struct {
	first, last *client
	len, max    int
}

// push adds a client that has c.incoming; false when the queue is full.
func (q *queue) push(c *client) bool {
	if q.len >= q.max {
		return false
	}
	c.incoming.queued, c.incoming.prev, c.incoming.next = true, q.last, nil
	if q.last != nil {
		q.last.incoming.next = c
	} else {
		q.first = c
	}
	q.last = c
	q.len++
	return true
}

// remove takes a client out; it does nothing when the client is not queued.
func (q *queue) remove(c *client) {
	in := c.incoming
	if in == nil || !in.queued {
		return
	}
	if in.prev != nil {
		in.prev.incoming.next = in.next
	} else {
		q.first = in.next
	}
	if in.next != nil {
		in.next.incoming.prev = in.prev
	} else {
		q.last = in.prev
	}
	in.queued, in.next, in.prev = false, nil, nil
	q.len--
}
