package control

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

const (
	// systemDir is what systemd makes with RuntimeDirectory=gophersnake, and what root uses.
	systemDir = "/run/gophersnake"

	suffix       = ".ctl"
	labelMax     = 24 // bytes of a directory's name in a socket's name
	digestBytes  = 4
	unixPathMax  = 107 // sun_path without its end
	foundMax     = 64  // sockets looked at, beyond which something else is wrong
	privateMode  = 0o700
	writableMask = 0o022 // others who could put a socket of theirs in the place of ours
)

// Place says where the sockets of one user are. Their names carry the directory of the app and
// the one the server was started in, so that a command given in either finds it without a
// flag, and the process id, so that several servers may run there.
type Place struct {
	Getenv func(string) string
	UID    int
	Temp   string // the directory for temporary files
	System string // /run/gophersnake
}

// NewPlace is the place of this process's user.
func NewPlace(getenv func(string) string) Place {
	return Place{Getenv: getenv, UID: os.Geteuid(), Temp: os.TempDir(), System: systemDir}
}

// dirs lists the directories in the order of preference.
func (p Place) dirs() []string {
	var all []string
	if dir := p.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		all = append(all, filepath.Join(dir, "gophersnake"))
	}
	return append(all, p.System, filepath.Join(p.Temp, fmt.Sprintf("gophersnake-%d", p.UID)))
}

// Path is where a server puts its socket: in the first directory that exists or can be made
// and that nobody else can write to.
func (p Place) Path(dir, startedIn string, pid int) (string, error) {
	var all error
	for _, at := range p.dirs() {
		err := p.private(at)
		path := filepath.Join(at, socketName(dir, startedIn, pid))
		if err == nil && len(path) > unixPathMax {
			err = fmt.Errorf("%s is longer than %d bytes", path, unixPathMax)
		}
		if err == nil {
			return path, nil
		}
		all = errors.Join(all, err)
	}
	return "", fmt.Errorf("no directory for the control socket: %w", all)
}

// private makes the directory, or checks that it is ours alone. A link is not followed: in
// a directory that everybody writes to, it could be anybody's.
func (p Place) private(dir string) error {
	err := os.Mkdir(dir, privateMode)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	owner := -1
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		owner = int(stat.Uid)
	}
	if !info.IsDir() || owner != p.UID || info.Mode()&writableMask != 0 {
		return fmt.Errorf("%s is not a directory that only its owner, user %d, may write to",
			dir, p.UID)
	}
	return nil
}

// Find lists the sockets of the servers that serve dir or were started there; others lists the
// rest.
func (p Place) Find(dir string) (here, others []string) {
	mark := digest(dir)
	for _, at := range p.dirs() {
		entries, err := os.ReadDir(at)
		if err != nil || !p.trusts(at) {
			continue
		}
		for _, entry := range entries {
			marks, _, ok := parseName(entry.Name())
			if !ok || len(here)+len(others) == foundMax {
				continue
			}
			path := filepath.Join(at, entry.Name())
			if marks[0] == mark || marks[1] == mark {
				here = append(here, path)
			} else {
				others = append(others, path)
			}
		}
	}
	return here, others
}

// trusts: a command is given to whoever made the socket. Root also trusts the system's directory,
// which systemd gives to the service's user.
func (p Place) trusts(dir string) bool {
	return p.private(dir) == nil || p.UID == 0 && dir == p.System
}

// sweep removes what servers that were killed have left in a directory. The process id alone
// would not do: a container has its own numbers.
func sweep(dir string) {
	entries, _ := os.ReadDir(dir)
	for _, entry := range entries {
		_, pid, ok := parseName(entry.Name())
		if !ok || !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			continue
		}
		if path := filepath.Join(dir, entry.Name()); stateOf(path) == stale {
			_ = os.Remove(path) // another server may have been quicker
		}
	}
}

// socketName is LABEL-DIGEST-DIGEST.PID.ctl.
func socketName(dir, startedIn string, pid int) string {
	label := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' {
			return r
		}
		return '_'
	}, filepath.Base(dir))
	return fmt.Sprintf("%s-%s-%s.%d%s", label[:min(len(label), labelMax)], digest(dir),
		digest(startedIn), pid, suffix)
}

func parseName(name string) (marks [2]string, pid int, ok bool) {
	name, ok = strings.CutSuffix(name, suffix)
	name, number, found := strings.Cut(name, ".")
	parts := strings.Split(name, "-")
	pid, err := strconv.Atoi(number)
	if !ok || !found || err != nil || pid <= 0 || len(parts) != 3 {
		return marks, 0, false
	}
	return [2]string{parts[1], parts[2]}, pid, true
}

func digest(dir string) string {
	sum := sha256.Sum256([]byte(dir))
	return hex.EncodeToString(sum[:digestBytes])
}
