//go:build poll_opt

package loop

import (
	"unsafe"

	"github.com/panjf2000/gnet/v2/pkg/netpoll"
	"golang.org/x/sys/unix"
)

// watchedFD is the descriptor that an event of gnet's epoll tells of. With this tag the event
// carries the address of what gnet knows about the descriptor. It must still be watched.
func watchedFD(ev *unix.EpollEvent) int {
	var known *netpoll.PollAttachment
	*(*[8]byte)(unsafe.Pointer(&known)) = *(*[8]byte)(unsafe.Pointer(&ev.Fd)) // not aligned
	return known.FD
}
