package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"gophersnake/server/internal/config"
	"gophersnake/server/internal/control"
)

const aboutCtl = `Asks a running server, or tells it what to do, through its control socket: a Unix
socket that only the server's user and root can use. The server is the one that serves the app of
this directory, or was started in it; --chdir names another directory, --control-socket the socket.

Exit codes: 0 done, 1 the server said no and why, 2 usage, 7 no server was found.`

// errInterrupted ends a command that waits for the server, which goes on with it.
var errInterrupted = errors.New("interrupted; the server goes on with what it was told")

// caller is one command line that talks to a server.
type caller struct {
	process
	socket string // --control-socket
	dir    string // --chdir
	json   bool
}

// ctlCommands are ctl and its short forms.
func ctlCommands(p process) []*cobra.Command {
	ctl := &cobra.Command{Use: "ctl COMMAND", Short: "ask a running server, or tell it what to do",
		Long: aboutCtl}
	ctl.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return &usageError{"no command given; gophersnake ctl --help lists them"}
		}
		return &usageError{fmt.Sprintf("there is no command ctl %s; gophersnake ctl --help lists "+
			"them", args[0])}
	}
	ctl.RunE = func(*cobra.Command, []string) error { return nil } // Args refuses everything
	c := &caller{process: p}
	c.flags(ctl.PersistentFlags())
	ctl.AddCommand(
		c.plain("status", "what the server is and how it fares", control.CommandStatus),
		c.plain("workers", "the worker processes", control.CommandWorkers),
		c.plain("threads", "what each thread runs, and what waits", control.CommandThreads),
		c.stacks(), c.scale(), c.recycle(), c.drain(),
		c.plain("reload", "load the app anew; the old version serves until the new one can",
			control.CommandReload),
	)
	ctl.SetGlobalNormalizationFunc(config.Normalize)

	short := &caller{process: p}
	reload := short.plain("reload", "load the app anew (the same as gophersnake ctl reload)",
		control.CommandReload)
	stop := short.plain("stop", "end the server after its running requests", control.CommandDrain)
	stop.RunE = func(cmd *cobra.Command, _ []string) error {
		return short.run(cmd, control.Request{Command: control.CommandDrain, Exit: true})
	}
	for _, cmd := range []*cobra.Command{reload, stop} {
		cmd.Long = cmd.Short + ".\n\n" + aboutCtl
		short.flags(cmd.Flags())
		cmd.SetGlobalNormalizationFunc(config.Normalize)
	}
	return []*cobra.Command{ctl, reload, stop}
}

func (c *caller) flags(set *pflag.FlagSet) {
	set.StringVar(&c.socket, "control-socket", "", "`PATH` of the socket; also --control")
	set.StringVarP(&c.dir, "chdir", "C", "", "`DIR` of the app, or where the server was started")
	set.BoolVarP(&c.json, "json", "j", false, "answer in JSON")
}

// plain is a command without arguments.
func (c *caller) plain(name, short, command string) *cobra.Command {
	return &cobra.Command{Use: name, Short: short, Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.run(cmd, control.Request{Command: command})
		}}
}

func (c *caller) stacks() *cobra.Command {
	return &cobra.Command{Use: "stacks [WORKER]", Short: "the Python stacks of all threads",
		RunE: func(cmd *cobra.Command, args []string) error {
			r := control.Request{Command: control.CommandStacks}
			var err error
			if len(args) > 0 {
				r.Worker, err = onePositive(args, "the number of a worker")
			}
			if err != nil {
				return err
			}
			return c.run(cmd, r)
		}}
}

func (c *caller) scale() *cobra.Command {
	return &cobra.Command{Use: "scale N", Short: "change the number of workers",
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := onePositive(args, "the number of workers to have")
			if err != nil {
				return err
			}
			return c.run(cmd, control.Request{Command: control.CommandScale, Count: n})
		}}
}

func (c *caller) recycle() *cobra.Command {
	r := control.Request{Command: control.CommandRecycle}
	cmd := &cobra.Command{Use: "recycle WORKER | --all",
		Short: "replace a worker; the new one is ready before the old one goes",
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			switch {
			case r.All && len(args) > 0:
				return &usageError{"give the number of a worker, or --all, not both"}
			case !r.All:
				r.Worker, err = onePositive(args, "the number of a worker, or --all")
			}
			if err != nil {
				return err
			}
			return c.run(cmd, r)
		}}
	cmd.Flags().BoolVar(&r.All, "all", false, "every worker, one after another")
	return cmd
}

func (c *caller) drain() *cobra.Command {
	r := control.Request{Command: control.CommandDrain}
	cmd := c.plain("drain", "accept no clients any more and finish the running requests", "")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return c.run(cmd, r) }
	cmd.Flags().BoolVar(&r.Exit, "exit", false, "and end the server: gophersnake stop")
	return cmd
}

func onePositive(args []string, what string) (int, error) {
	if len(args) == 1 {
		if n, err := strconv.Atoi(args[0]); err == nil && n > 0 {
			return n, nil
		}
	}
	if len(args) == 0 {
		return 0, &usageError{"give " + what}
	}
	return 0, &usageError{fmt.Sprintf("give %s, not %q", what, strings.Join(args, " "))}
}

// run asks the server and prints what it answers.
func (c *caller) run(cmd *cobra.Command, r control.Request) error {
	path, err := c.locate()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	go c.watchSignals(ctx, cancel)
	result, err := control.Do(ctx, path, r)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	if c.json {
		err = json.Indent(&out, result, "", "  ")
		out.WriteByte('\n')
	} else {
		err = control.Print(&out, r, result, time.Now())
	}
	if err != nil {
		return err
	}
	_, err = cmd.OutOrStdout().Write(out.Bytes())
	return err
}

// watchSignals: main takes the signals for the server's sake, so that none ends this process by
// itself.
func (c *caller) watchSignals(ctx context.Context, cancel context.CancelCauseFunc) {
	for {
		select {
		case sig := <-c.signals:
			if sig == syscall.SIGINT || sig == syscall.SIGTERM {
				cancel(errInterrupted)
			}
		case <-ctx.Done():
			return
		}
	}
}

// locate finds the socket: what the flag says, over the environment, over the directory.
func (c *caller) locate() (string, error) {
	socket, dir := c.socket, c.dir
	if dir == "" {
		dir = c.getenv(config.EnvName("chdir"))
	}
	if socket == "" && c.dir == "" {
		socket = c.getenv(config.EnvName("control-socket"))
	}
	switch {
	case socket == config.Off:
		return "", &usageError{"--control-socket off: there is no socket to ask"}
	case socket != "":
		return socket, nil
	}
	at, err := resolved(dir)
	if err != nil {
		return "", &usageError{fmt.Sprintf("--chdir %q: %s", dir, rootCause(err))}
	}
	return control.Locate(c.sockets(c.getenv), at)
}

// resolved is how directories are compared: absolute, and without links, since a shell's idea of
// where it is and the kernel's may differ.
func resolved(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(dir); err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(dir)
}
