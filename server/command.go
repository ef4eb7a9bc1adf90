package main

import (
	"fmt"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"gophersnake/server/internal/config"
	"gophersnake/server/internal/host"
)

// usageError is a command line that cannot be understood or followed.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

const about = `gophersnake serves a Python WSGI app with your own Python.

APP is a module (shop.wsgi), module:name (shop.wsgi:application), module:package.attribute,
module:factory("argument") or a file (path/shop.py or path/shop.py:app). Without a name the first
of application, app and wsgi_app is taken, then create_app() or make_app().

Each flag can also be given as an environment variable: --graceful-timeout is
GOPHERSNAKE_GRACEFUL_TIMEOUT. Times are 30s, 2m or a number of seconds; sizes 64KB or 100MiB.`

// newCommand builds the command line. `gophersnake APP` and `gophersnake serve APP` mean the
// same: the root takes what is no subcommand for an app.
func newCommand(p process) *cobra.Command {
	root := serveCommand(p, "gophersnake [APP]")
	root.Short = "serve a Python WSGI app"
	root.Long = about
	root.Version = version
	root.SetVersionTemplate(versionLine())
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &usageError{fmt.Sprintf("%v; %s --help lists the flags", err, cmd.CommandPath())}
	})

	serve := serveCommand(p, "serve [APP]")
	serve.Short = "serve APP (the same as gophersnake APP)"
	demo := demoCommand(p)
	show := &cobra.Command{
		Use: "version", Short: "print the version", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprint(cmd.OutOrStdout(), versionLine())
			return err
		},
	}
	root.AddCommand(serve, demo, benchCommand(p), show)
	root.AddCommand(ctlCommands(p)...)
	return root
}

func versionLine() string {
	return fmt.Sprintf("gophersnake %s (%s %s/%s)\n", version, runtime.Version(), runtime.GOOS,
		runtime.GOARCH)
}

func serveCommand(p process, use string) *cobra.Command {
	cmd := &cobra.Command{Use: use}
	flags := config.NewFlags(cmd.Flags())
	cmd.Flags().SortFlags = false
	cmd.Args = func(cmd *cobra.Command, args []string) error { return oneApp(cmd, args) }
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		return run(p, flags, app{name: args[0]})
	}
	return cmd
}

func demoCommand(p process) *cobra.Command {
	cmd := &cobra.Command{Use: "demo", Short: "serve the built-in demo app", Args: noArgs}
	flags := config.NewFlags(cmd.Flags())
	cmd.Flags().SortFlags = false
	cmd.RunE = func(*cobra.Command, []string) error {
		return run(p, flags, app{name: "demo", builtIn: true})
	}
	return cmd
}

// run reads the settings and serves.
func run(p process, flags *config.Flags, a app) error {
	files, err := host.RaiseFilesMax()
	if err != nil {
		return err
	}
	facts := config.Facts{CPUs: host.CPUs(), FilesMax: files, Getenv: p.getenv}
	if p.inherited != nil {
		facts.Sockets = len(p.inherited.sockets)
	}
	c, err := flags.Config(facts)
	if err != nil {
		return err
	}
	return newService(p, c, a).serve()
}

// oneApp checks the words that are not flags. Two words can be a mistyped subcommand with its
// APP; one alone cannot be told from a module.
func oneApp(cmd *cobra.Command, args []string) error {
	switch {
	case len(args) == 1 && args[0] != "":
		return nil
	case len(args) < 2:
		return &usageError{"no APP given; write gophersnake MODULE, gophersnake MODULE:NAME or " +
			"gophersnake PATH/FILE.py, or gophersnake demo for the built-in app"}
	}
	text := fmt.Sprintf("one APP can be served, not %d: %q", len(args), args)
	if near := cmd.Root().SuggestionsFor(args[0]); len(near) > 0 {
		text += "; did you mean " + strings.Join(near, " or ") + "?"
	}
	return &usageError{text}
}

func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return &usageError{fmt.Sprintf("%s takes no argument, not %q", cmd.CommandPath(), args)}
	}
	return nil
}
