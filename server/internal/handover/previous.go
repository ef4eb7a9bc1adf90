package handover

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Socket is one descriptor that came over; see Offer.
type Socket struct {
	File  *os.File // the caller closes it
	Name  string
	Owned bool
}

// Previous is the old server as the new one sees it.
type Previous struct {
	PID     int
	Sockets []Socket // what it offered, in its order
	link    *os.File
}

// Take reads what Start put into the environment; nil when this process was started by somebody
// else. The caller must then remove Variable from its environment, for its own children.
//
// Inherited descriptors have lost close-on-exec. It is set again here, before anything else is
// started: a worker with a listening socket would keep the port open for ever.
func Take(value string) (*Previous, error) {
	if value == "" {
		return nil, nil
	}
	var m message
	if err := json.Unmarshal([]byte(value), &m); err != nil {
		return nil, fmt.Errorf("handover: %s: %w", Variable, err)
	}
	link, err := inherit(m.Link, "link")
	if err != nil {
		return nil, err
	}
	p := &Previous{PID: m.PID, link: link}
	for _, d := range m.Sockets {
		f, err := inherit(d.FD, d.Name)
		if err != nil {
			return nil, errors.Join(err, p.close())
		}
		p.Sockets = append(p.Sockets, Socket{File: f, Name: d.Name, Owned: d.Owned})
	}
	return p, nil
}

func (p *Previous) close() error {
	err := p.link.Close()
	for _, s := range p.Sockets {
		err = errors.Join(err, s.File.Close())
	}
	return err
}

// inherit takes a descriptor that must be a socket.
func inherit(fd int, name string) (*os.File, error) {
	if _, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil {
		return nil, fmt.Errorf("handover: inherited descriptor %d (%s): %w", fd, name, err)
	}
	unix.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), name), nil
}

// Ready tells the old server that this one accepts clients.
func (p *Previous) Ready() error {
	_, err := p.link.Write([]byte{saysReady})
	return err
}

// WaitConfirmed returns when this is the server: the old one has said so and let go of it, or is
// gone. It closes the link.
func (p *Previous) WaitConfirmed() {
	said := make([]byte, 1)
	for {
		// An end without a word means the same: there is no other server.
		if _, err := io.ReadFull(p.link, said); err != nil {
			_ = p.link.Close()
			return
		}
		if said[0] == saysMain {
			_, _ = p.link.Write([]byte{saysTaken}) // if it fails, the next read ends too
		}
	}
}
