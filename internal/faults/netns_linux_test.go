package faults

import (
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pgcast/pgcast/internal/judge"
)

// spaces are two network namespaces with a cable in between: the server lives in one, the
// other leads to Postgres. What the cable loses nobody is told of: no RST, no ACK, no ICMP.
type spaces struct {
	t            *testing.T
	server, base string // names
}

const (
	serverAddress = "10.213.9.2"
	baseAddress   = "10.213.9.1"
	nowhere       = "10.213.9.5" // a neighbour whose hardware address nobody has
)

func newSpaces(t *testing.T) *spaces {
	t.Helper()
	s := &spaces{t: t, server: fmt.Sprintf("pgcast-s-%d", os.Getpid()), base: fmt.Sprintf("pgcast-b-%d", os.Getpid())}
	if os.Getuid() != 0 {
		t.Skip("needs root for network namespaces")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("needs ip (iproute2)")
	}
	if out, err := exec.Command("ip", "netns", "add", s.server).CombinedOutput(); err != nil {
		t.Skipf("needs network namespaces: %s", out)
	}
	t.Cleanup(func() {
		_ = exec.Command("ip", "netns", "del", s.server).Run()
		_ = exec.Command("ip", "netns", "del", s.base).Run()
	})
	s.ip("netns add " + s.base)
	s.ip("-n " + s.server + " link add cable type veth peer name cable netns " + s.base)
	for name, address := range map[string]string{s.server: serverAddress, s.base: baseAddress} {
		s.ip("-n " + name + " addr add " + address + "/29 dev cable")
		s.ip("-n " + name + " link set cable up")
		s.ip("-n " + name + " link set lo up")
		s.ip("-n " + name + " neigh add " + nowhere + " lladdr 02:00:00:00:00:05 nud permanent dev cable")
		s.ip("-n " + name + " route add default via " + nowhere + " table 99")
	}
	return s
}

func (s *spaces) ip(args string) {
	s.t.Helper()
	if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
		s.t.Fatalf("ip %s: %v: %s", args, err, out)
	}
}

// lose has the packets of one TCP connection lost on the cable, in both directions. port is
// its port at the server's end.
func (s *spaces) lose(port int) {
	s.t.Helper()
	// Before the rule of the main table; 0 is the local one, which has only loopback.
	s.ip(fmt.Sprintf("-n %s rule add pref 10 ipproto tcp sport %d lookup 99", s.server, port))
	s.ip(fmt.Sprintf("-n %s rule add pref 10 ipproto tcp dport %d lookup 99", s.base, port))
}

// cut has everything lost, and heal nothing any more.
func (s *spaces) cut() {
	for _, name := range []string{s.server, s.base} {
		s.ip("-n " + name + " rule add pref 5 to 10.213.9.0/29 lookup 99")
	}
}

func (s *spaces) heal() {
	for _, name := range []string{s.server, s.base} {
		s.ip("-n " + name + " rule del pref 5")
	}
}

// in runs f in a namespace: the sockets and processes it makes itself, not by other
// goroutines, belong there for good.
func in[T any](t *testing.T, name string, f func() (T, error)) (v T, err error) {
	type result struct {
		v   T
		err error
	}
	done := make(chan result, 1)
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		file, err := os.Open("/var/run/netns/" + name)
		if err == nil {
			err = unix.Setns(int(file.Fd()), unix.CLONE_NEWNET)
			file.Close()
		}
		r := result{err: err}
		if err == nil {
			r.v, r.err = f()
		}
		done <- r
	}()
	r, ok := <-done
	if !ok {
		t.FailNow() // f has failed the test
	}
	return r.v, r.err
}

// relay passes connections on from a listener to what dial makes, until the test ends. ports
// has, for each port that it dialed from, the one at the other end of what it passes on.
func relay(t *testing.T, l net.Listener, dial func() (net.Conn, error)) (ports *sync.Map) {
	ports = &sync.Map{}
	var conns sync.Map
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			conns.Store(from, nil)
			serving.Go(func() {
				defer from.Close()
				to, err := dial()
				if err != nil {
					return
				}
				defer to.Close()
				conns.Store(to, nil)
				ports.Store(to.LocalAddr().(*net.TCPAddr).Port, from.RemoteAddr().(*net.TCPAddr).Port)
				serving.Go(func() { _, _ = io.Copy(to, from); to.Close() })
				_, _ = io.Copy(from, to)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		conns.Range(func(c, _ any) bool { c.(net.Conn).Close(); return true })
		serving.Wait()
	})
	return ports
}

// The network loses every packet of a connection and tells nobody: of the sequencer's line
// alone, as a firewall does that has forgotten it, and of everything between Postgres and the
// server.
func TestFault09LostPackets(t *testing.T) {
	r := begin(t, "9", "packets lost without a word, between network namespaces")
	r.trials = trials(2, 5, 30)
	n := newSpaces(t)
	db := judge.Database(t, nil)
	u, err := url.Parse(db.URL)
	if err != nil {
		t.Fatal(err)
	}
	postgres := u.Host
	l, err := in(t, n.base, func() (net.Listener, error) { return net.Listen("tcp", baseAddress+":0") })
	if err != nil {
		t.Fatal(err)
	}
	ports := relay(t, l, func() (net.Conn, error) { return net.Dial("tcp", postgres) })
	u.Host = l.Addr().String()
	server, err := in(t, n.server, func() (*judge.Server, error) { return judge.StartServer(t, u.String(), "--insecure-database"), nil })
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{server.Listen, server.Admin} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		relay(t, l, func() (net.Conn, error) {
			return in(t, n.server, func() (net.Conn, error) { return net.Dial("tcp", address) })
		})
	}
	s := &scene{t: t, url: db.URL}
	s.join(server)
	conn := judge.Connect(t, db.URL)
	lost := func() float64 { v, _ := server.Metric("pgcast_sequencer_reconnects_total", ""); return v }
	asleep := func() bool {
		return judge.Value[int](t, db.URL, `select count(*)::int from pg_locks where locktype = 'advisory' and classid = 1885823841 and objid = 1
			and database = (select oid from pg_database where datname = current_database())`) == 1
	}
	var noticed, first, then, healed []time.Duration
	for range r.trials {
		judge.Await(t, "the sequencer sleeps", time.Minute, asleep)
		before := lost()
		port, ok := ports.Load(judge.Value[int](t, db.URL, `select a.client_port from pg_locks l join pg_stat_activity a on a.pid = l.pid
			where l.locktype = 'advisory' and l.classid = 1885823841 and l.objid = 1 and a.datname = current_database()`))
		if !ok {
			t.Fatal("the sequencer's line does not lead through the namespaces")
		}
		n.lose(port.(int))
		began := time.Now()
		first = append(first, probe(t, conn, s.topics[0], "room:0"))
		judge.Await(t, "it is noticed", time.Minute, func() bool { return lost() > before })
		noticed = append(noticed, time.Since(began))
		for range 3 {
			then = append(then, probe(t, conn, s.topics[0], "room:0"))
		}
	}
	if !strings.Contains(server.Log(), "the line is dead: the database does not work on what was asked over it") {
		t.Error("the log does not name it")
	}
	for range trials(1, 3, 20) {
		judge.Await(t, "the sequencer sleeps", time.Minute, asleep)
		before := lost()
		n.cut()
		began := time.Now()
		if _, err := conn.Exec(t.Context(), "select pgcast.publish('room:0', 'note', '1')"); err != nil {
			t.Fatal(err)
		}
		judge.Await(t, "it is noticed", time.Minute, func() bool { return lost() > before })
		noticed = append(noticed, time.Since(began))
		n.heal()
		healed = append(healed, probe(t, conn, s.topics[0], "room:0"))
	}
	s.end(r)
	r.latency("until it is noticed and named", noticed, 3*time.Second)
	r.latency("an event written when the line's packets are lost comes after", first, 500*time.Millisecond)
	r.latency("from an event's commit to the client, from then on", then, 250*time.Millisecond)
	r.latency("an event written when a network that lost everything is well again comes after", healed, 5*time.Second)
}
