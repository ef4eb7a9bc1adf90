package loop

import (
	"net"
	"os"

	"github.com/valyala/bytebufferpool"

	"gophersnake/pybridge"
)

// fileConn makes a net.Conn of a descriptor, which it takes over.
func fileConn(fd int, name string) (net.Conn, error) {
	f := os.NewFile(uintptr(fd), name)
	defer func() { _ = f.Close() }()
	return net.FileConn(f)
}

// bellConn makes a net.Conn of a lane's doorbell.
func bellConn(bridge *pybridge.Lane) (net.Conn, error) {
	f := bridge.Doorbell()
	defer func() { _ = f.Close() }()
	return net.FileConn(f)
}

// getBuffer copies data into a pooled buffer.
func getBuffer(data []byte) *bytebufferpool.ByteBuffer {
	b := bytebufferpool.Get()
	_, _ = b.Write(data)
	return b
}
