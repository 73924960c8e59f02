package bench

import "syscall"

// freeze stops a process, and lets it go on.
func freeze(pid int, frozen bool) error {
	if frozen {
		return syscall.Kill(pid, syscall.SIGSTOP)
	}
	return syscall.Kill(pid, syscall.SIGCONT)
}

// childAttr ends a child when we are gone, and keeps a terminal's Ctrl-C from it: we stop
// it ourselves.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}
