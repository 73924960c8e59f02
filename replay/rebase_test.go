package replay

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgcast/pgcast/db"
	"github.com/pgcast/pgcast/internal/devpg"
	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/migrations"
)

// TestDumpAndRestore moves a log into a younger cluster, whose transactions are behind
// those of the log, and back into the older one, whose are ahead: what had no place when
// it was dumped gets it once, what comes then gets the next, nothing twice.
func TestDumpAndRestore(t *testing.T) {
	t.Parallel()
	bin := pgtest.Binaries(t)
	tools := map[string]string{}
	for _, name := range []string{"pg_dump", "pg_restore"} {
		path, err := exec.LookPath(filepath.Join(bin.Dir, name))
		if err != nil {
			path, err = exec.LookPath(name)
		}
		if err != nil {
			t.Skipf("there is no %s, neither beside the Postgres that the tests use nor on the PATH", name)
		}
		tools[name] = path
	}
	older := pgtest.Private(t, &devpg.Options{OwnIdentity: true})
	younger := pgtest.Private(t, &devpg.Options{OwnIdentity: true})
	at := func(c *devpg.Cluster, name string) *pgtest.DB {
		(&pgtest.DB{URL: c.URL("postgres")}).Exec(t, "create database "+name)
		return &pgtest.DB{URL: c.URL(name), Name: name}
	}
	move := func(from, to *pgtest.DB) {
		file := filepath.Join(t.TempDir(), "dump")
		for _, cmd := range []*exec.Cmd{
			exec.Command(tools["pg_dump"], "-Fc", "-f", file, from.URL),
			exec.Command(tools["pg_restore"], "--exit-on-error", "-d", to.URL, file),
		} {
			out, err := cmd.CombinedOutput()
			if strings.Contains(string(out), "server version mismatch") {
				t.Skipf("%s is too old for the Postgres that the tests use: %s", cmd.Args[0], out)
			}
			if err != nil {
				t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
			}
		}
	}

	first := at(older, "first")
	if err := migrations.Up(t.Context(), first.URL); err != nil {
		t.Fatal(err)
	}
	w := &world{ctx: t.Context(), t: t, batch: 7, step: db.SequencerStep, peek: db.SequencerLook, facts: map[int]*fact{}}
	w.moveTo(first)
	w.exec(w.admin, strings.ReplaceAll(burn, "30000", "5000"))
	everyone := w.reader("")
	live := func() {
		p, q, h := w.writer(), w.writer(), w.hand().lead()
		p.bulk(10, "a", "b")
		q.begin("").publish("a") // open while the others are sequenced
		h.drain()
		w.look()
		q.commit()
		h.drain()
		everyone.read(1000)
		everyone.comeBack()
		p.bulk(3*w.batch, "b", "c").publish("a") // without a place when it is dumped
		h.run()                                  // not even all chunks done
	}
	live()

	second := at(younger, "second")
	move(first, second)
	w.moveTo(second)
	live()
	// The younger cluster comes to all the transaction numbers that came along.
	h := w.hand().lead()
	for range 4 {
		w.exec(w.admin, strings.ReplaceAll(burn, "30000", "2000"))
		w.writer().publish("c")
		h.drain()
		w.look()
	}
	live()

	third := at(older, "third")
	move(second, third)
	w.moveTo(third)
	live()
	if err := w.finale(); err != nil {
		t.Fatal(err)
	}
	if floor := pgtest.Value[int](t, third, "select floor::int from pgcast.sequencer"); floor == 0 {
		t.Error("the log was never re-based")
	}
}

// TestAhead: a log that has seen transactions which this cluster has not given out yet
// comes from elsewhere, whatever the cluster calls itself.
func TestAhead(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Doorbell)
	p := w.writer().bulk(20, "a", "b")
	w.hand().lead().drain().crash(false)
	if floor := pgtest.Value[int](t, w.db, "select floor::int from pgcast.sequencer"); floor != 0 {
		t.Errorf("floor is %d after the first start", floor)
	}
	p.bulk(3, "a")
	w.exec(w.admin, `update pgcast.progress set seen = format('%1$s:%1$s:', pg_snapshot_xmax(pg_current_snapshot())::text::bigint + 1000000)::pg_snapshot`)
	h := w.hand().lead()
	p.bulk(3, "b")
	h.drain()
	w.placed(26)
	if err := w.finale(); err != nil {
		t.Fatal(err)
	}
}

// TestNeverSequenced: a log that no server has sequenced may come from another cluster,
// whose transactions this one will give out in a million years.
func TestNeverSequenced(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Doorbell)
	w.writer().bulk(20, "a", "b")
	w.exec(w.admin, "update pgcast.event_log set xid = '900000000'::xid8; update pgcast.sequencer set system_identifier = null")
	h := w.hand().lead()
	w.writer().bulk(3, "a")
	h.drain()
	w.placed(23)
	if err := w.finale(); err != nil {
		t.Fatal(err)
	}
}

// TestNewTimeline: a promoted standby goes on with the transaction numbers it came with.
func TestNewTimeline(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Doorbell)
	w.writer().bulk(5, "a")
	w.hand().lead().drain().crash(false)
	w.exec(w.admin, "update pgcast.sequencer set timeline = timeline - 1")
	w.writer().bulk(5, "a")
	w.hand().lead().drain()
	w.placed(10)
	if err := w.finale(); err != nil {
		t.Fatal(err)
	}
	if got := pgtest.Value[string](t, w.db, "select floor || ' ' || timeline from pgcast.sequencer"); got != "0 1" {
		t.Errorf("floor and timeline are %s", got)
	}
	id, err := w.log.Identity(t.Context())
	if err != nil || !strings.HasSuffix(id, ".1") {
		t.Errorf("identity %s, %v", id, err)
	}
}
