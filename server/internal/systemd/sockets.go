package systemd

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	firstFD    = 3  // SD_LISTEN_FDS_START
	socketsMax = 64 // more are a mistake
)

// Sockets takes the sockets that the manager has opened for this process, in its order; each is
// named after its FileDescriptorName (the unit's name when that is not set). None when the
// variables are not set or meant for another process.
//
// Inherited descriptors have lost close-on-exec; it is set again, so that no child keeps them.
func Sockets(getenv func(string) string, pid int) ([]*os.File, error) {
	// sd_listen_fds(3): LISTEN_PID tells whether the variables were passed on by mistake.
	text := getenv("LISTEN_FDS")
	if text == "" || getenv("LISTEN_PID") != strconv.Itoa(pid) {
		return nil, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > socketsMax {
		return nil, fmt.Errorf("systemd: LISTEN_FDS %q: not a number from 0 to %d", text,
			socketsMax)
	}
	names := strings.Split(getenv("LISTEN_FDNAMES"), ":")
	var files []*os.File
	for i := range n {
		fd, name := firstFD+i, "unknown" // the word sd_listen_fds_with_names(3) has for it
		if i < len(names) && names[i] != "" {
			name = names[i]
		}
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
			return nil, errors.Join(
				fmt.Errorf("systemd: LISTEN_FDS=%d, but descriptor %d: %w", n, fd, err),
				closeAll(files))
		}
		files = append(files, os.NewFile(uintptr(fd), name))
	}
	return files, nil
}

func closeAll(files []*os.File) error {
	var all error
	for _, f := range files {
		all = errors.Join(all, f.Close())
	}
	return all
}
