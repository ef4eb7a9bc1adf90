package e2e

import "syscall"

const (
	terminate = syscall.SIGTERM
	interrupt = syscall.SIGINT
)
