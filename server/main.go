// Command gophersnake serves a Python WSGI app: one process with the reactor and the listeners,
// and worker processes that are the user's own Python.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"gophersnake/server/internal/config"
	"gophersnake/server/internal/control"
	"gophersnake/server/internal/listen"
	"gophersnake/server/internal/logs"
	"gophersnake/server/internal/supervise"
)

// version is set by the linker (-X main.version=…) and never written to otherwise.
var version = "0.0.0-dev"

// Exit codes; 3 and 4 are gunicorn's.
const (
	exitClean   = 0
	exitRuntime = 1 // something broke, or the drain missed its deadline
	exitUsage   = 2 // command line, environment or interpreter
	exitBoot    = 3 // workers cannot start
	exitImport  = 4 // the app cannot be imported
	exitListen  = 5 // an address cannot be opened
	exitNoOne   = 7 // ctl: no server was found
	exitForced  = 130
)

// signalsMax bounds the signals that wait while one is handled; more of them say nothing new.
const signalsMax = 16

func main() {
	signals := make(chan os.Signal, signalsMax)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT,
		syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGTTIN, syscall.SIGTTOU)
	// SIGPIPE is taken so that a log reader which goes away does not take the server with it;
	// ignoring it outright would be inherited by the workers. It comes with every line then, and
	// would fill the channel of the others: a SIGTERM that finds no room is lost.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	os.Exit(execute(os.Args[1:], process{
		stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv, signals: signals,
		newEngine: newEngine, sockets: control.NewPlace, inherited: inherit(),
		stopItself: func() error { return syscall.Kill(os.Getpid(), syscall.SIGTERM) },
	}))
}

// process is what the command needs from outside; tests bring their own.
type process struct {
	stdout, stderr io.Writer
	getenv         func(string) string
	signals        <-chan os.Signal
	newEngine      func(engineSpec) (engine, error)
	// sockets says where control sockets are; nil: nowhere but where --control-socket says.
	sockets func(getenv func(string) string) control.Place
	// stopItself ends the server as SIGTERM does.
	stopItself func() error
	// inherited is from whoever started the process; nil: nothing.
	inherited *inheritance
}

// execute runs one command line and returns its exit code.
func execute(args []string, p process) int {
	root := newCommand(p)
	root.SetArgs(args)
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	return report(root.Execute(), p.stderr)
}

// report tells a person why the command ended and returns the exit code that says it to others.
func report(err error, stderr io.Writer) int {
	if err == nil {
		return exitClean
	}
	code, text := exitRuntime, err.Error()
	var (
		usage   *usageError
		setting *config.Error
		socket  *listen.Error
		failed  *importError
		boot    *supervise.BootError
		nobody  *control.NoServerError
		refused *control.RefusedError
	)
	switch {
	case errors.Is(err, errForced), errors.Is(err, errInterrupted):
		code = exitForced
	case errors.As(err, &usage), errors.As(err, &setting):
		code = exitUsage
	case errors.As(err, &socket):
		code = exitListen
	case errors.As(err, &nobody):
		code = exitNoOne
	case errors.As(err, &refused):
		text = strings.TrimPrefix(text, "supervise: ") // means nothing to a person
	case errors.As(err, &failed):
		code = exitImport
	case errors.As(err, &boot):
		code = exitBoot
		text = fmt.Sprintf("workers cannot start (%d tried): the last one %s",
			boot.Deaths, boot.Last)
	}
	// Nothing is left to do about a stderr that cannot be written to.
	_, _ = fmt.Fprintf(stderr, "gophersnake: %s\n", logs.Escape(text))
	return code
}
