package devpg

import (
	"bytes"
	"os"
	"strconv"
	"syscall"
)

// diesWithParent says that the kernel itself ends the server with us.
const diesWithParent = true

// bindToParent makes the kernel send a fast shutdown when the thread that starts the
// process is gone, and with a locked thread that means: when we are.
func bindToParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGINT }

// commandLine gives a process's arguments. Unlike /proc/PID/exe and cwd it can be read
// for another user's process also by a root without CAP_SYS_PTRACE, as in a container.
func commandLine(pid int) (string, error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	return string(bytes.ReplaceAll(text, []byte{0}, []byte{' '})), err
}
