package replay

import (
	"bytes"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast/internal/devpg"
	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/listener"
	"github.com/pgcast/pgcast/migrations"
)

// hasSlot tells whether the database's slot is there.
const hasSlot = "select exists (select from pg_replication_slots where slot_name = pgcast.slot_name())"

// book is a log that can be looked at while it is written.
type book struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *book) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *book) has(text string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Contains(b.text.String(), text)
}

func (b *book) logger() *slog.Logger { return slog.New(slog.NewTextHandler(b, nil)) }

// TestCaptureResets: whatever makes it impossible to go on from where capture was is answered
// with a new slot, and a reset of exactly the topics concerned.
func TestCaptureResets(t *testing.T) {
	for reason, harm := range map[string]func(t *testing.T, d *pgtest.DB, conn *pgx.Conn){
		resetMissing: func(t *testing.T, d *pgtest.DB, conn *pgx.Conn) {
			await(t, "the slot is dropped", func() bool {
				_, err := conn.Exec(t.Context(), `select pg_drop_replication_slot(pgcast.slot_name())`)
				return err == nil
			})
		},
		resetMoved: func(t *testing.T, d *pgtest.DB, conn *pgx.Conn) {
			script(t, conn, "insert into a values (100, 'lost')")
			await(t, "the slot is advanced", func() bool {
				_, err := conn.Exec(t.Context(), `select pg_replication_slot_advance(pgcast.slot_name(), pg_current_wal_lsn())`)
				return err == nil
			})
		},
		resetCluster: func(t *testing.T, d *pgtest.DB, conn *pgx.Conn) {
			script(t, conn, "update pgcast.captured set system_identifier = 1")
		},
	} {
		t.Run(reason, func(t *testing.T) {
			t.Parallel()
			d := logical(t, "create table a (id int primary key, v text)", "create table quiet (id int primary key)", "select pgcast.attach('quiet')",
				"select pgcast.attach('a', capture => 'wal')", "insert into a values (1, 'x')", "insert into quiet values (1)")
			conn := d.Conn(t)
			r := run(t, d, SequencerOptions{Logger: discard})
			sequenced(t, conn, 2)
			await(t, "the place is stored", func() bool { return one[int](t, conn, "select max(step)::int from pgcast.captured") > 1 })
			r.stop()
			await(t, "the slot is let go", func() bool {
				return one[bool](t, conn, "select not active from pg_replication_slots where slot_name = pgcast.slot_name()")
			})
			harm(t, d, conn)
			d.Exec(t, "select pgcast.publish('said', 'left')")
			said := &book{}
			r = run(t, d, SequencerOptions{Logger: said.logger()})
			began := time.Now()
			await(t, "the topic is reset", func() bool { return slices.Contains(eventsOf(t, conn, "a"), `reset {"table" : "public.a"}`) })
			t.Logf("told reset after %v", time.Since(began))
			d.Exec(t, "insert into a values (2, 'y')")
			await(t, "it captures again", func() bool { return slices.Contains(eventsOf(t, conn, "a"), `created {"id":2,"v":"y"}`) })
			if e := eventsOf(t, conn, "quiet"); len(e) != 1 {
				t.Errorf("events of a table that has nothing to do with it: %v", e)
			}
			if e := eventsOf(t, conn, "said"); !slices.Equal(e, []string{"left"}) {
				t.Errorf("what was published meanwhile: %v", e)
			}
			if n := r.metric("capture_resets_total", reason); n != 1 || r.metric("capture_resets_total") != 1 {
				t.Errorf("%v resets because the slot is %s, %v in all", n, reason, r.metric("capture_resets_total"))
			}
			if !said.has("level=ERROR") || !said.has("reason="+reason) {
				t.Error("it is not told loudly")
			}
			whole(t, conn, -1)
		})
	}
}

// TestCaptureLostSlot: Postgres may throw away WAL that the slot needs.
func TestCaptureLostSlot(t *testing.T) {
	t.Parallel()
	c := pgtest.Private(t, &devpg.Options{Settings: map[string]string{"max_slot_wal_keep_size": "1MB", "min_wal_size": "32MB", "max_wal_size": "32MB", "max_replication_slots": "4", "max_wal_senders": "4"}})
	if err := migrations.Up(t.Context(), c.URL("postgres")); err != nil {
		t.Fatal(err)
	}
	d := &pgtest.DB{URL: c.URL("postgres"), Name: "postgres"}
	openSlot(t, d)
	for _, sql := range []string{"create table a (id int primary key)", "select pgcast.attach('a', capture => 'wal')", "insert into a values (1)"} {
		d.Exec(t, sql)
	}
	conn := d.Conn(t)
	r := run(t, d, SequencerOptions{Logger: discard})
	sequenced(t, conn, 1)
	r.stop()
	d.Exec(t, "insert into a values (2)")
	await(t, "the slot is lost", func() bool {
		script(t, conn, "select pg_switch_wal()", "create table if not exists filler (x int)", "insert into filler values (1)", "checkpoint")
		return one[bool](t, conn, "select wal_status = 'lost' from pg_replication_slots")
	})
	r = run(t, d, SequencerOptions{Logger: discard})
	await(t, "the topic is reset", func() bool { return slices.Contains(eventsOf(t, conn, "a"), `reset {"table" : "public.a"}`) })
	d.Exec(t, "insert into a values (3)")
	await(t, "it captures again", func() bool { return slices.Contains(eventsOf(t, conn, "a"), `created {"id":3}`) })
	if n := r.metric("capture_resets_total", resetLost); n != 1 {
		t.Errorf("%v resets because the slot is lost", n)
	}
}

// TestCaptureSlotInUse: somebody else reads the slot; when he has gone, nothing is missing.
func TestCaptureSlotInUse(t *testing.T) {
	t.Parallel()
	d := logical(t, "create table a (id int primary key)", "select pgcast.attach('a', capture => 'wal')")
	conn := d.Conn(t)
	// Another program, which Postgres does not know as ours.
	thief, err := listener.OpenStream(t.Context(), d.URL, listener.StreamOptions{Slot: one[string](t, conn, "select pgcast.slot_name()"),
		Publications: []string{"pgcast_wake"}, ApplicationName: "thief"})
	if err != nil {
		t.Fatal(err)
	}
	said := &book{}
	run(t, d, SequencerOptions{Logger: said.logger()})
	d.Exec(t, "insert into a values (1)")
	await(t, "it is told whose the slot is", func() bool {
		return said.has("active for PID " + one[string](t, conn, "select active_pid::text from pg_replication_slots where slot_name = pgcast.slot_name()"))
	})
	thief.Close()
	began := time.Now()
	sequenced(t, conn, 1)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("captured %v after the slot was free", took)
	}
}

// TestCaptureLeavesNothing: when the last table is detached, what was committed before is
// captured, and the slot goes; one that was made and never used goes too.
func TestCaptureLeavesNothing(t *testing.T) {
	t.Parallel()
	d := logical(t, "create table a (id int primary key)", "select pgcast.attach('a', capture => 'wal')")
	conn, late := d.Conn(t), d.Conn(t)
	run(t, d, SequencerOptions{Logger: discard})
	await(t, "it captures", func() bool {
		return one[bool](t, conn, "select lsn is not null from pgcast.captured order by step desc limit 1")
	})
	script(t, conn, "insert into a values (0)")
	sequenced(t, conn, 1)
	script(t, late, "begin", "select pgcast.publish('said', 'late')")
	script(t, conn, "insert into a values (1)", "insert into a values (2)", "select pgcast.publish('said', 'early')", "select pgcast.detach('a')")
	await(t, "the slot is dropped", func() bool { return !one[bool](t, conn, hasSlot) })
	script(t, late, "commit")
	await(t, "the late one is moved", func() bool { return len(eventsOf(t, conn, "said")) == 2 })
	if e := eventsOf(t, conn, "said"); !slices.Equal(e, []string{"early", "late"}) {
		t.Errorf("what was published: %v", e)
	}
	if n := one[int](t, conn, "select count(*)::int from pgcast.published"); n != 0 {
		t.Errorf("%d calls of publish() are left", n)
	}
	if e := eventsOf(t, conn, "a"); !slices.Equal(e, []string{`created {"id":0}`, `created {"id":1}`, `created {"id":2}`}) {
		t.Errorf("what was written before it was detached: %v", e)
	}
	// And again from the start.
	openSlot(t, d)
	script(t, conn, "select pgcast.attach('a', capture => 'wal')", "insert into a values (3)")
	await(t, "it captures again", func() bool { return slices.Contains(eventsOf(t, conn, "a"), `created {"id":3}`) })
	if slices.ContainsFunc(eventsOf(t, conn, "a"), func(e string) bool { return strings.HasPrefix(e, "reset") }) {
		t.Error("to detach and to attach again is told as a reset")
	}
}

// TestCaptureIdle: transactions that have nothing for us write nothing, but WAL that nobody
// needs any more is given back.
func TestCaptureIdle(t *testing.T) {
	t.Parallel()
	d := logical(t, "create table a (id int primary key)", "create table other (id int, v text)", "select pgcast.attach('a', capture => 'wal')", "insert into a values (1)")
	conn := d.Conn(t)
	run(t, d, SequencerOptions{Logger: discard})
	sequenced(t, conn, 1)
	await(t, "the place is stored", func() bool { return one[int](t, conn, "select max(step)::int from pgcast.captured") > 1 })
	before := one[int](t, conn, "select max(step)::int from pgcast.captured")
	for range 100 {
		script(t, conn, "insert into other values (1)")
	}
	d.Exec(t, "insert into a values (2)")
	sequenced(t, conn, 2)
	await(t, "the place is stored", func() bool { return one[int](t, conn, "select max(step)::int from pgcast.captured") > before })
	// One step for the row, and the cluster's other tests may move the WAL by some megabytes.
	if n := one[int](t, conn, "select max(step)::int from pgcast.captured") - before; n > 20 {
		t.Errorf("%d steps for 100 transactions of another table", n)
	}
	was := one[string](t, conn, "select confirmed_flush_lsn::text from pg_replication_slots where slot_name = pgcast.slot_name()")
	script(t, conn, "insert into other select i, repeat('x', 1000) from generate_series(1, 4000) i")
	await(t, "the slot follows", func() bool {
		return one[bool](t, conn, "select confirmed_flush_lsn > $1::pg_lsn + 1000000 from pg_replication_slots where slot_name = pgcast.slot_name()", was)
	})
	if !one[bool](t, conn, "select s.confirmed_flush_lsn <= c.lsn from pg_replication_slots s, (select lsn from pgcast.captured order by step desc limit 1) c where slot_name = pgcast.slot_name()") {
		t.Error("the slot is further than what is stored")
	}
}

// TestCaptureStalled: a consumer that stands still for longer than wal_sender_timeout is not
// cut off.
func TestCaptureStalled(t *testing.T) {
	t.Parallel()
	d := logical(t, "create table a (id int primary key)", "select pgcast.attach('a', capture => 'wal')")
	d.Exec(t, "alter database "+d.Name+" set wal_sender_timeout = '500ms'")
	conn := d.Conn(t)
	stalled := sync.OnceFunc(func() { time.Sleep(2500 * time.Millisecond) })
	r := capturing(t, d, func(step string) error {
		if step == "begin" {
			stalled()
		}
		return nil
	})
	for i := range 50 {
		script(t, conn, "insert into a values ("+string(rune('1'+i%9))+string(rune('0'+i/9))+")")
	}
	sequenced(t, conn, 50)
	if n := r.metric("capture_interrupted_total"); n != 0 {
		t.Errorf("capture was interrupted %v times", n)
	}
}

// TestCaptureClosedSlot: who closes the slot and opens another has lost nothing.
func TestCaptureClosedSlot(t *testing.T) {
	t.Parallel()
	d := logical(t, "create table a (id int primary key)", "select pgcast.attach('a', capture => 'wal')", "insert into a values (1)")
	conn := d.Conn(t)
	r := run(t, d, SequencerOptions{Logger: discard})
	sequenced(t, conn, 1)
	r.stop()
	await(t, "the slot is let go", func() bool {
		return one[bool](t, conn, "select not active from pg_replication_slots where slot_name = pgcast.slot_name()")
	})
	d.Exec(t, "select pgcast.detach('a')")
	if !one[bool](t, conn, "select pgcast.close_slot()") {
		t.Fatal("there was no slot")
	}
	openSlot(t, d)
	d.Exec(t, "select pgcast.attach('a', capture => 'wal')")
	d.Exec(t, "insert into a values (2)")
	r = run(t, d, SequencerOptions{Logger: discard})
	sequenced(t, conn, 2)
	if n := r.metric("capture_resets_total"); n != 0 {
		t.Errorf("%v resets", n)
	}
}
