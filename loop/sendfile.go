package loop

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// sendfilePieceBytes is what one sendfile call is asked for: progress is seen, and the client's
// deadline moved, after each.
const sendfilePieceBytes = 1 << 20

var errFileShrunk = errors.New("loop: a file became shorter while it was sent")

// content is a piece of an app's file that goes to the client without being read by anybody. It
// belongs to the drainer, then to its goroutine, which closes it.
type content struct {
	file      *os.File
	off, left int64
}

func (ct *content) close() { _ = ct.file.Close() }

// sendFile hands a piece of a file to the client's drainer: reading a disk may block, and the loop
// must not. f is the drainer's from now on.
func (l *loop) sendFile(c *client, f *os.File, off, length int64) {
	l.push(c)
	if c.state != stateClosed && c.drainer == nil && length > 0 {
		l.startDrainer(c, nil)
	}
	if c.drainer == nil { // nothing to send, or the client was dropped
		_ = f.Close()
		return
	}
	c.drainer.addContent(&content{file: f, off: off, left: length})
}

// addContent puts a file's piece behind all that waits; it is the last part of a response. Loop
// only.
func (d *drainer) addContent(ct *content) {
	d.mu.Lock()
	if d.content != nil { // no honest worker sends two
		d.left -= d.content.left
		d.content.close()
	}
	d.content = ct
	d.left += ct.left
	d.posted = false
	d.mu.Unlock()
	d.wake()
}

// sendContent sends p's file, in pieces that each have a deadline.
func (d *drainer) sendContent(p *piece) error {
	ct := p.content
	defer ct.close()
	raw, err := d.f.SyscallConn()
	if err != nil {
		return err
	}
	from := int(ct.file.Fd())
	for ct.left > 0 {
		if d.timeout > 0 {
			_ = d.f.SetWriteDeadline(time.Now().Add(d.timeout))
		}
		n, sendErr := 0, error(nil)
		err := raw.Write(func(to uintptr) bool {
			want := int(min(ct.left, sendfilePieceBytes))
			n, sendErr = unix.Sendfile(int(to), from, &ct.off, want)
			return sendErr != unix.EAGAIN // else wait until the socket takes more
		})
		switch {
		case err != nil:
			return err
		case sendErr == unix.EINTR:
			continue
		case sendErr != nil:
			return sendErr
		case n == 0:
			return errFileShrunk
		}
		ct.left -= int64(n)
		if d.wrote(int64(n), p) {
			d.loop.post(func() { d.loop.drained(d) })
		}
	}
	return nil
}
