package pgtest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
)

// FreeAddress gives a loopback address for a server that is started later, or again and
// again, and that nothing listens on now. Its port is none of those that the system hands
// out by itself: on a busy machine one of these is soon some connection's own. Nor is it
// one that devpg would take for a cluster.
func FreeAddress(t testing.TB) string {
	t.Helper()
	var err error
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(5_000))
		var l net.Listener
		if l, err = net.Listen("tcp", addr); err == nil {
			l.Close()
			return addr
		}
	}
	t.Fatalf("pgtest: find a free address: %v", err)
	return ""
}
