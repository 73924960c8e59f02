//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package devpg

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

const supported = true

func owner(info fs.FileInfo) (uid, gid int) {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid), int(st.Gid)
	}
	return -1, -1
}

// tryFlock takes the lock or reports that somebody else has it.
func tryFlock(f *os.File) (bool, error) {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return true, nil
		case errors.Is(err, syscall.EWOULDBLOCK):
			return false, nil
		case errors.Is(err, syscall.EINTR):
		default:
			return false, err
		}
	}
}

// alive tells whether any process has this id.
func alive(pid int) bool {
	err := syscall.Kill(pid, 0)
	return err == nil || errors.Is(err, syscall.EPERM)
}

// procAttr makes a child that runs as the account, in a process group of its own so that
// a Ctrl-C meant for us does not reach it before we have finished with it.
func procAttr(a account) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true}
	if a.drop {
		attr.Credential = &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)}
	}
	return attr
}

// thaw lets a frozen process go on: it could not obey any other signal but SIGKILL.
func thaw(p *os.Process) { _ = p.Signal(syscall.SIGCONT) }
