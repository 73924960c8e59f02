package doctor

import (
	"context"
	"fmt"
	"net"
	"net/netip"
)

// checkOpenFiles compares how many clients may connect with how many can.
func checkOpenFiles(_ context.Context, x *exam) ([]finding, error) {
	may, known := openFiles()
	if !known {
		return one(skip("not known on this operating system"))
	}
	sessions, state := x.opts.MaxSessions, Warn
	if sessions <= 0 {
		sessions = 100_000
		if may >= x.limits.files {
			state = Note
		}
	}
	wants := uint64(sessions + x.opts.PoolSize + 100)
	if may < wants {
		return one(finding{state, fmt.Sprintf("a process started like this one may open %d files; max-sessions %d needs %d", may, sessions, wants),
			inShell("ulimit -n %d # or LimitNOFILE=%d in the systemd unit, or a lower max-sessions", wants, wants)})
	}
	return one(ok("a process started like this one may open %d files", may))
}

// isLocal tells whether the database runs on this machine, as far as one can see.
func (x *exam) isLocal() bool {
	conn := x.conn.PgConn().Conn()
	if _, is := conn.(*net.UnixConn); is {
		return true
	}
	at, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	return err == nil && at.Addr().Unmap().IsLoopback()
}
