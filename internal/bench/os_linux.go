package bench

import "syscall"

// childAttr ends a child when we are gone, and keeps a terminal's Ctrl-C from it: we stop
// it ourselves.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}
