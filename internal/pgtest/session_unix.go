//go:build unix

package pgtest

import (
	"os"
	"syscall"
)

// ownSession takes the keeper out of reach of the terminal and of "go test".
func ownSession() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

// keepFiles keeps files to ourselves that whoever runs the tests has left open, such as
// the other end of a pipe it reads until everybody has closed it.
func keepFiles() {
	for fd := 3; fd < 1024; fd++ {
		syscall.CloseOnExec(fd)
	}
}

// inherited is a file the parent has handed over. The cluster must not inherit it in
// turn: it would hold the pipe open on which the parent waits for its end.
func inherited(fd int) *os.File {
	syscall.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "pipe")
}
