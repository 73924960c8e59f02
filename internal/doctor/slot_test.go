package doctor

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcast/pgcast/internal/devpg"
	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/listener"
	"github.com/pgcast/pgcast/migrations"
	"github.com/pgcast/pgcast/replay"
)

// read reads this database's slot until the test ends, or until it is stopped.
func read(t testing.TB, url, slot string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s, err := listener.OpenStream(ctx, url, listener.StreamOptions{Slot: slot, Publications: []string{"pgcast_capture"}})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Run(ctx) // until it is stopped
	}()
	go func() {
		for range s.Batches() {
		}
	}()
	stop = func() { cancel(); <-done; s.Close() }
	t.Cleanup(stop)
	return stop
}

func TestCaptureSlot(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, &pgtest.Options{Kind: pgtest.Logical})
	conn := db.Conn(t)
	const check = "capture-slot"
	slot := pgtest.Value[string](t, db, "select pgcast.slot_name()")
	examine(t, db.URL, nil, check).want(t, check, OK, "there is no slot")

	openSlot(t, conn)
	rs := examine(t, db.URL, nil, check, "slots")
	rs.want(t, check, Warn, "no table is captured by slot "+slot, "holds back", "pgcast doctor --fix")
	if rs.has("slots", Warn, slot) {
		t.Error("one slot is told of twice")
	}
	rs.mends(t, conn, check)
	examine(t, db.URL, nil, check).want(t, check, OK, "there is no slot")

	attachWAL(t, conn, "t")
	rs = examine(t, db.URL, nil, check)
	rs.want(t, check, Warn, "slot "+slot+" for 1 table: nobody reads it", "behind, holds back", "pgcast serve")
	rs.want(t, check, Warn, "max_slot_wal_keep_size sets no limit", "'10GB'")
	line, err := listener.Dial(t.Context(), db.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer line.Close()
	if got, err := line.TryLock(t.Context(), listener.Lead, false); !got || err != nil {
		t.Fatal(got, err)
	}
	examine(t, db.URL, nil, check).want(t, check, Fail, "although a server sequences", "log of the server")

	stop := read(t, db.URL, slot)
	rs = examine(t, db.URL, nil, check)
	rs.want(t, check, Warn, "sets no limit")
	if rs.has(check, Fail) || rs.has(check, Warn, "nobody reads it") {
		t.Errorf("somebody reads it: %+v", rs)
	}
	examine(t, db.URL, func(d *Doctor) { d.limits.slotBytes = 0 }, check).want(t, check, Warn, "reads it", "capture does not keep up")
	run(t, conn, "select pgcast.detach('t')")
	examine(t, db.URL, nil, check).want(t, check, Note, "no table is captured by slot "+slot, "still reads it", "pg_terminate_backend")
	stop()
	until(t, "nobody reads the slot", func() bool {
		return !pgtest.Value[bool](t, db, "select active from pg_replication_slots where slot_name = $1", slot)
	})

	run(t, conn, "select pgcast.attach('t', capture => 'wal')")
	run(t, conn, "select pg_drop_replication_slot('"+slot+"')")
	rs = examine(t, db.URL, nil, check)
	rs.want(t, check, Fail, "slot "+slot+" is missing", "1 table", "select pgcast.open_slot()")
	rs.mends(t, conn, check)
	examine(t, db.URL, nil, check).want(t, check, Fail, "although a server sequences")

	run(t, conn, "select pg_drop_replication_slot('"+slot+"')")
	run(t, conn, "select pg_create_physical_replication_slot('"+slot+"')")
	rs = examine(t, db.URL, nil, check)
	rs.want(t, check, Fail, "not one that pgcast has made")
	rs.mends(t, conn, check)
	examine(t, db.URL, nil, check).want(t, check, Fail, "is missing")
}

// What settings, a full disk's guard and standbys do to a slot, on a cluster of its own.
func TestCaptureSlotCluster(t *testing.T) {
	t.Parallel()
	c := pgtest.Private(t, &devpg.Options{Settings: map[string]string{"min_wal_size": "32MB", "max_wal_size": "64MB"}})
	url := c.URL("postgres")
	if err := migrations.Up(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	const check = "capture-slot"
	attachWAL(t, conn, "t")
	var slot string
	if err := conn.QueryRow(t.Context(), "select pgcast.slot_name()").Scan(&slot); err != nil {
		t.Fatal(err)
	}
	set := func(setting string) {
		t.Helper()
		run(t, conn, "alter system set "+setting)
		run(t, conn, "select pg_reload_conf()")
	}

	t.Run("timeout", func(t *testing.T) {
		if c.Version() < 18 {
			t.Skipf("Postgres %d has no idle_replication_slot_timeout", c.Version())
		}
		set("idle_replication_slot_timeout = '1d'")
		until(t, "the timeout is told", func() bool {
			return examine(t, url, nil, check).has(check, Warn, "idle_replication_slot_timeout is 24h0m0s", "= 0")
		})
		set("idle_replication_slot_timeout = 0")
	})
	t.Run("failover", func(t *testing.T) {
		if c.Version() < 17 {
			t.Skipf("Postgres %d copies no slots to standbys", c.Version())
		}
		standby(t, url)
		if rs := examine(t, url, nil, check); rs.has(check, Note, "not copied to standbys") {
			t.Errorf("the slot is one that is copied: %+v", rs)
		}
		run(t, conn, "select pg_drop_replication_slot('"+slot+"')")
		run(t, conn, "select pg_create_logical_replication_slot('"+slot+"', 'pgoutput')")
		examine(t, url, nil, check).want(t, check, Note, "not copied to standbys", "ALTER_REPLICATION_SLOT "+slot+" (FAILOVER true)")
	})

	// Names that look like ours.
	run(t, conn, "select pg_create_physical_replication_slot('pgcast_capture_4294967290')")
	rs := examine(t, url, nil, "slots")
	rs.want(t, "slots", Warn, "slot pgcast_capture_4294967290 has a name as if pgcast had made it")
	rs.mends(t, conn, "slots")
	if rs := examine(t, url, nil, "slots"); rs.has("slots", Warn, "pgcast_capture") {
		t.Errorf("it is mended: %+v", rs)
	}

	for i := range 4 {
		run(t, conn, "insert into t values ("+strconv.Itoa(i)+")")
		run(t, conn, "select pg_switch_wal()")
	}
	set("max_slot_wal_keep_size = '1MB'")
	until(t, "the slot is about to lose its WAL", func() bool {
		return examine(t, url, nil, check).has(check, Fail, "about to lose", "max_slot_wal_keep_size = '1")
	})
	run(t, conn, "checkpoint")
	until(t, "the slot is lost", func() bool {
		return examine(t, url, nil, check).has(check, Fail, "slot "+slot+" is of no use any more", "open_slot")
	})
	examine(t, url, nil, check).mends(t, conn, check)
	examine(t, url, nil, check).want(t, check, Fail, "is missing")
}

// standby connects as one, and stays until the test ends.
func standby(t *testing.T, url string) {
	t.Helper()
	config, err := pgconn.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.RuntimeParams["replication"] = "true"
	ctx, cancel := context.WithCancel(context.Background())
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	results, err := conn.Exec(ctx, "IDENTIFY_SYSTEM").ReadAll()
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	at := string(results[0].Rows[0][2])
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = conn.Exec(ctx, "START_REPLICATION PHYSICAL "+at).ReadAll() // until the test ends
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		late, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = conn.Close(late)
	})
	watch, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close(t.Context())
	until(t, "the standby is connected", func() bool {
		var n int
		err := watch.QueryRow(t.Context(), "select count(*) from pg_stat_replication").Scan(&n)
		if err != nil {
			t.Fatal(errors.Join(err, ctx.Err()))
		}
		return n > 0
	})
}

func TestPublications(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, &pgtest.Options{Kind: pgtest.Logical})
	conn := db.Conn(t)
	const check = "publications"
	examine(t, db.URL, nil, check).want(t, check, OK, "all three")
	run(t, conn, "drop publication pgcast_wake, pgcast_steps, pgcast_capture")
	rs := examine(t, db.URL, nil, check)
	rs.want(t, check, Note, "pgcast_wake is missing", "cannot be woken")
	rs.want(t, check, Note, "pgcast_capture is missing", "can be attached")
	rs = examine(t, db.URL, wakes(replay.WakeWAL), check)
	rs.want(t, check, Warn, "pgcast_steps is missing")
	rs.mends(t, conn, check)
	examine(t, db.URL, nil, check).want(t, check, OK)

	run(t, conn, "create table extra (id int primary key); alter publication pgcast_capture add table extra; alter publication pgcast_wake set (publish = 'update')")
	rs = examine(t, db.URL, nil, check)
	rs.want(t, check, Warn, "pgcast_capture has extra", "read for nothing")
	rs.want(t, check, Warn, "pgcast_wake does not publish insert")
	rs.mends(t, conn, check)
	examine(t, db.URL, nil, check).want(t, check, OK)

	attachWAL(t, conn, "t")
	examine(t, db.URL, nil, check).want(t, check, OK)
	for _, s := range []struct{ sql, check, says string }{
		{"alter publication pgcast_capture set (publish = 'insert, delete')", check, "does not publish insert, update, delete, truncate"},
		{"alter publication pgcast_capture drop table t", "triggers", "it is not in publication pgcast_capture"},
		{"alter table t replica identity nothing", "triggers", "has no REPLICA IDENTITY"},
		{"alter publication pgcast_capture drop table pgcast.published", check, "lacks pgcast.published"},
		{"drop publication pgcast_capture; create publication pgcast_capture for all tables", check, "publishes all tables"},
	} {
		run(t, conn, s.sql)
		rs := examine(t, db.URL, nil, check, "triggers")
		rs.want(t, s.check, Fail, s.says)
		rs.mends(t, conn, s.check)
		examine(t, db.URL, nil, "triggers").mends(t, conn, "triggers") // what was made anew lacks t
		rs = examine(t, db.URL, nil, check, "triggers")
		rs.want(t, check, OK)
		rs.want(t, "triggers", OK)
	}
	run(t, conn, "drop publication pgcast_capture")
	rs = examine(t, db.URL, nil, check, "triggers")
	rs.want(t, check, Fail, "pgcast_capture is missing: 1 table cannot be captured")
	rs.want(t, "triggers", Skip, "told by wal-level, publications and capture-slot")
}

func TestPublished(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, &pgtest.Options{Kind: pgtest.Logical})
	conn := db.Conn(t)
	const check = "published"
	soon := func(d *Doctor) { d.limits.lagWarn = time.Nanosecond }
	examine(t, db.URL, soon, check).want(t, check, OK, "0 events")
	attachWAL(t, conn, "t")
	run(t, conn, "select pgcast.publish('a', 'b')")
	examine(t, db.URL, func(d *Doctor) { d.limits.lagWarn = time.Hour }, check).want(t, check, OK, "1 event of publish")
	examine(t, db.URL, soon, check).want(t, check, Warn, "1 event of publish() waiting", "pgcast serve")
	run(t, conn, "select pgcast.detach('t')")
	run(t, conn, "insert into pgcast.published (id, topic, event, created_at) values (9999, 'a', 'c', now()) on conflict do nothing")
	examine(t, db.URL, soon, check).want(t, check, Warn, "no table is captured from there any more", "pgcast doctor --fix")
	run(t, conn, "insert into pgcast.stage (session, xid, n, subxid, topic, event) values (1, '5', 1, 5, 'a', 'b')")
	examine(t, db.URL, soon, check).want(t, check, Note, "1 event of large transactions left behind", "--fix")
}
