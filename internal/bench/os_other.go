//go:build !linux

package bench

import "syscall"

func childAttr() *syscall.SysProcAttr { return nil }

// The clients of the load are written for Linux, which Run asks for first.
type swarm struct{}

func (*swarm) close() {}

func swarmJobs() map[string]job { return nil }
