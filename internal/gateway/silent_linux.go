package gateway

import (
	"crypto/tls"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// dropSilent has the kernel end a connection whose peer acknowledges nothing, or makes no
// room, for so long. A stream has no pings, and what is sent to a peer that has vanished
// would lie in the kernel for a quarter of an hour.
func dropSilent(c net.Conn, after time.Duration) {
	if secure, ok := c.(*tls.Conn); ok {
		c = secure.NetConn()
	}
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(after.Milliseconds()))
	})
}
