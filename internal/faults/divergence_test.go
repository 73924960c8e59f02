package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/pgcast/pgcast/client"
	"github.com/pgcast/pgcast/internal/devpg"
	"github.com/pgcast/pgcast/internal/judge"
	"github.com/pgcast/pgcast/internal/pgtest"
)

// faced is a server behind a proxy that a failover turns to another node, with a client for
// each topic and one for all.
type faced struct {
	proxy   *pgtest.Proxy
	server  *judge.Server
	readers []*judge.Reader // of room:0 to room:4, then of room:*
}

func face(t *testing.T, n *node) *faced {
	t.Helper()
	f := &faced{proxy: pgtest.NewProxy(t, n.url())}
	f.server = judge.StartServer(t, f.proxy.URL)
	f.server.WaitReady()
	for _, topic := range append(judge.Rooms(), "room:*") {
		f.readers = append(f.readers, judge.NewReader(t, "http://"+f.server.Listen, topic, &judge.ReaderOptions{Resets: true, Arrival: true}, topic))
	}
	return f
}

// turn leads the server to another node.
func (f *faced) turn(t *testing.T, to *node) {
	f.proxy.Lead(t, to.url())
	f.proxy.Cut()
}

// writeRooms adds n events to each of some topics, and gives how many events each topic has.
func writeRooms(t *testing.T, url string, n int, rooms ...int) {
	t.Helper()
	judge.Exec(t, url, "insert into item (room, n) select room, g from unnest($1::int[]) room, generate_series(1, $2) g", rooms, n)
}

// have waits until all clients have as many events as the database.
func (f *faced) have(t *testing.T, url string) {
	t.Helper()
	judge.Sequenced(t, url)
	log := judge.Log(t, url)
	judge.Await(t, "the clients have everything", time.Minute, func() bool { return f.readers[5].Events() == len(log) })
	v := judge.Against(t, log, f.readers...)
	if !v.Clean() {
		t.Fatalf("before anything happened: %s", v.String())
	}
}

// told waits for the resets that must come, and counts those that must not and did not.
func (f *faced) told(t *testing.T, r *row, diverged []int) {
	t.Helper()
	must := append(slices.Clone(diverged), 5) // who follows everything has seen it too
	if len(diverged) == 0 {
		must = nil
	}
	for _, i := range must {
		judge.Await(t, "reset of "+f.readers[i].Name, time.Minute, func() bool { return len(f.readers[i].Resets()) > 0 })
	}
	wrongly := 0
	for i, reader := range f.readers {
		if !slices.Contains(must, i) {
			wrongly += len(reader.Resets())
		}
	}
	r.figure("clients reset whose history is gone", fmt.Sprintf("%d of %d", len(must), len(must)), "all", true)
	r.count("clients reset whose history stands", wrongly, 0)
}

// judge compares what the clients hold now with the log of the node that serves.
func (f *faced) judge(t *testing.T, r *row, url string) {
	t.Helper()
	judge.Sequenced(t, url)
	log := judge.Log(t, url)
	r.Add(judge.CheckLog(log))
	r.Add(judge.Against(t, log, f.readers...))
	r.check()
}

func TestFault04LosslessFailover(t *testing.T) {
	later(t)
	r := begin(t, "4", "lossless failover: a synchronous standby is promoted under load")
	r.trials = trials(1, 1, 5)
	var took []time.Duration
	for range r.trials {
		a := primary(t)
		a.stop()
		b := a.copy()
		a.start()
		b.follow(a.url())
		judge.Exec(t, a.url(), "alter system set synchronous_standby_names = 'standby'")
		judge.Exec(t, a.url(), "select pg_reload_conf()")
		judge.Await(t, "the standby is synchronous", time.Minute, func() bool {
			return judge.Value[int](t, a.url(), "select count(*)::int from pg_stat_replication where sync_state = 'sync'") == 1
		})
		f := face(t, a)
		w := judge.StartWriters(t, f.proxy.URL, 3, seed)
		judge.Await(t, "events flow", time.Minute, func() bool { return f.readers[5].Events() > 100 })
		crash(t, a)
		b.promote()
		f.turn(t, b)
		took = append(took, probe(t, judge.Connect(t, b.url()), f.readers[5], "room:0"))
		w.Stop()
		f.told(t, r, nil)
		f.judge(t, r, b.url())
		f.server.Kill()
		b.stop()
	}
	r.latency("from the promotion to the first new event at the client", took, 3*time.Second)
}

// crash stops a node as a power cut would.
func crash(t *testing.T, n *node) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := n.cluster.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := n.cluster.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	n.cluster = nil
}

func TestFault05LossyFailover(t *testing.T) {
	later(t)
	r := begin(t, "5", "lossy failover: a standby that lacks the newest events is promoted")
	r.trials = trials(1, 1, 5)
	for range r.trials {
		a := primary(t)
		a.stop()
		b := a.copy()
		a.start()
		wire := pgtest.NewProxy(t, a.url())
		b.follow(wire.URL)
		f := face(t, a)
		writeRooms(t, a.url(), 20, 0, 1, 2, 3, 4)
		f.have(t, a.url())
		a.streams(b)
		wire.Freeze()
		wire.Lead(t, "postgres://127.0.0.1:1/")
		writeRooms(t, a.url(), 10, 0, 1)
		f.have(t, a.url())
		crash(t, a)
		b.promote()
		writeRooms(t, b.url(), 15, 0, 1, 2) // other events in the same places
		f.turn(t, b)
		f.told(t, r, []int{0, 1})
		writeRooms(t, b.url(), 5, 0, 1, 2, 3, 4)
		f.judge(t, r, b.url())
		f.server.Kill()
		b.stop()
	}
}

// The database is put back to an older copy while clients hold newer places.
func TestFault06OlderCopy(t *testing.T) {
	later(t)
	for _, how := range []string{"point-in-time recovery", "a volume's snapshot put back"} {
		t.Run(how, func(t *testing.T) {
			r := begin(t, "6", "the database is restored: "+how)
			a := primary(t)
			f := face(t, a)
			writeRooms(t, a.url(), 20, 0, 1, 2, 3, 4)
			f.have(t, a.url())
			a.stop()
			old := a.copy()
			a.start()
			f.turn(t, a)
			writeRooms(t, a.url(), 10, 0, 1)
			f.have(t, a.url())
			future := f.readers[0].Facts("room:0")
			a.stop()
			a.take(old)
			if how == "point-in-time recovery" {
				a.signal("recovery.signal")
				a.settings["restore_command"] = "false"
			}
			a.start()
			judge.Await(t, "recovered", time.Minute, func() bool { return !judge.Value[bool](t, a.url(), "select pg_is_in_recovery()") })
			writeRooms(t, a.url(), 15, 0, 1, 2) // past the old head
			f.turn(t, a)
			f.told(t, r, []int{0, 1})
			// One that was away all the time, and comes back with what it has.
			last := future[len(future)-1]
			away := judge.NewReader(t, "http://"+f.server.Listen, "away", &judge.ReaderOptions{Resets: true,
				From: &client.From{After: int64(last.Seq), ID: last.ID}}, "room:0")
			judge.Await(t, "it is reset", time.Minute, func() bool { return len(away.Resets()) > 0 })
			f.readers = append(f.readers, away)
			writeRooms(t, a.url(), 5, 0, 1, 2, 3, 4)
			f.judge(t, r, a.url())
			r.count("clients that diverged without a word", r.Lost+r.Phantom, 0)
		})
	}
}

// The log is dumped and restored into another cluster, with a younger history, or into a
// newer major version.
func TestFault07And48AnotherCluster(t *testing.T) {
	later(t)
	for _, row := range []string{"7", "48"} {
		t.Run(row, func(t *testing.T) {
			bin := pgtest.Binaries(t)
			r := begin(t, row, "dump and restore into another, younger cluster")
			if row == "48" {
				bin = newer(t, bin.Version)
				r.fault = fmt.Sprintf("major upgrade from %d to %d by dump and restore", pgtest.Binaries(t).Version, bin.Version)
			}
			dumpAndRestore(t, r, bin)
		})
	}
}

func dumpAndRestore(t *testing.T, r *row, bin devpg.Binaries) {
	a := primary(t)
	f := face(t, a)
	for range 50 { // old enough
		writeRooms(t, a.url(), 2, 0, 1, 2, 3, 4)
	}
	f.have(t, a.url())
	const seqOnly = 20
	var seqs []*rawClient
	for range seqOnly {
		c := dialRaw(t, f.server)
		seqs = append(seqs, c)
	}
	dump := t.TempDir() + "/dump.sql"
	tool(t, "pg_dump", "-f", dump, a.url())
	b := newNode(t, bin)
	tool(t, "psql", "-q", "-o", "/dev/null", "-v", "ON_ERROR_STOP=1", "-f", dump, b.url())
	a.stop()
	f.turn(t, b)
	writeRooms(t, b.url(), 3, 0, 1, 2, 3, 4)
	f.judge(t, r, b.url())
	f.told(t, r, nil)
	reset := 0
	for _, c := range seqs {
		if c.resumed(t, f.server) == "reset" {
			reset++
		}
	}
	r.count("clients that know only a seq, of 20, that were reset", reset, seqOnly)
}

// rawClient is one that knows only seqs, as clients of the 0.4 protocol.
type rawClient struct{ session string }

func dialRaw(t *testing.T, s *judge.Server) *rawClient {
	t.Helper()
	conn := dialWS(t, s)
	defer conn.CloseNow()
	f := readFrame(t, conn)
	session, _ := f["sessionId"].(string)
	return &rawClient{session}
}

// resumed resumes after a seq that exists, and gives the type of the first frame after
// subscribed.
func (c *rawClient) resumed(t *testing.T, s *judge.Server) string {
	t.Helper()
	conn := dialWS(t, s)
	defer conn.CloseNow()
	for _, f := range []string{`{"type":"hello","caps":["reset"]}`,
		fmt.Sprintf(`{"type":"resume","sessionId":%q,"lastSeenSeqs":{"room:0":10}}`, c.session), `{"type":"subscribe","topic":"room:0","ref":1}`} {
		if err := conn.Write(t.Context(), websocket.MessageText, []byte(f)); err != nil {
			t.Fatal(err)
		}
	}
	for subscribed := false; ; {
		f := readFrame(t, conn)
		kind, _ := f["type"].(string)
		if subscribed {
			return kind
		}
		subscribed = kind == "subscribed"
	}
}

func dialWS(t *testing.T, s *judge.Server) *websocket.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, "ws://"+s.Listen+"/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func readFrame(t *testing.T, conn *websocket.Conn) (f map[string]any) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, text, err := conn.Read(ctx)
	if err == nil {
		err = json.Unmarshal(text, &f)
	}
	if err != nil {
		t.Fatal(err)
	}
	return f
}
