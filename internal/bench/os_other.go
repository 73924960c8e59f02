//go:build !linux

package bench

import (
	"errors"
	"syscall"
)

func freeze(int, bool) error { return errors.New("a process can be stopped on Linux only") }

func childAttr() *syscall.SysProcAttr { return nil }

// The clients of the load are written for Linux, which Run asks for first.
type swarm struct{}

func (*swarm) close() {}

func swarmJobs() map[string]job { return nil }
