package redistest

import (
	"os/exec"
	"syscall"
)

// tie has the process end with this one, however that ends.
func tie(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
