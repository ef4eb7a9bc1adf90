//go:build !poll_opt

package loop

import "golang.org/x/sys/unix"

// watchedFD is the descriptor that an event of gnet's epoll tells of.
func watchedFD(ev *unix.EpollEvent) int { return int(ev.Fd) }
