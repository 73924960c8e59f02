// Command pgcast streams committed Postgres writes to subscribed clients: the server,
// and everything one needs around it. See pgcast --help.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	os.Exit(run())
}

func run() int {
	// SIGHUP, a closed terminal, counts too, unless nohup had it ignored.
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		signals = append(signals, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), signals...)
	defer stop()
	// The first signal asks; after that they are no longer ours, so the second one ends
	// the process at once.
	context.AfterFunc(ctx, stop)

	a := &app{in: os.Stdin, out: os.Stdout, err: os.Stderr, environ: os.Environ()}
	return a.run(ctx, os.Args[1:])
}
