package doctor

import (
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcast/pgcast/internal/devpg"
	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/migrations"
	"github.com/pgcast/pgcast/replay"
)

func wakes(w replay.Wake) func(*Doctor) { return func(d *Doctor) { d.opts.Wake = w } }

func TestWake(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, &pgtest.Options{Kind: pgtest.Logical})
	conn := db.Conn(t)
	_, url := role(t, db, "")
	names := []string{"replication", "wake"}
	rs := examine(t, db.URL, nil, names...)
	rs.want(t, "wake", OK, "auto: the doorbell")
	rs.want(t, "replication", OK, "can be followed", "WAL senders in use")
	examine(t, db.URL, wakes(replay.WakeNotify), names...).want(t, "wake", OK, "notify: the doorbell")
	examine(t, db.URL, wakes(replay.WakePoll), names...).want(t, "wake", OK, "poll, as it was told")
	examine(t, db.URL, wakes(replay.WakeWAL), names...).want(t, "wake", OK, "wal: servers follow the log by a temporary slot")

	// A role that may not replicate.
	examine(t, url, nil, names...).want(t, "replication", OK, "nobody could: role", "may not replicate")
	rs = examine(t, url, wakes(replay.WakeWAL), names...)
	rs.want(t, "replication", Warn, "wake=wal is of no use: role", "replication")
	rs.want(t, "wake", Warn, "servers take the doorbell instead", "may not replicate")
	rs.mends(t, conn, "replication")
	rs = examine(t, url, wakes(replay.WakeWAL), names...)
	rs.want(t, "replication", OK, "can be followed")
	rs.want(t, "wake", OK)

	run(t, conn, "drop publication pgcast_wake")
	rs = examine(t, db.URL, wakes(replay.WakeWAL), names...)
	rs.want(t, "wake", Warn, "publication pgcast_wake is missing")
	rs.mends(t, conn, "wake")
	examine(t, db.URL, wakes(replay.WakeWAL), names...).want(t, "wake", OK)
}

func TestWakeWithPrepared(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, &pgtest.Options{Kind: pgtest.TwoPhase})
	conn := db.Conn(t)
	_, url := role(t, db, "")
	examine(t, db.URL, nil, "wake").want(t, "wake", OK, "auto: servers follow the WAL, as nobody rings", "is 10")
	examine(t, db.URL, wakes(replay.WakeNotify), "wake").want(t, "wake", Fail, "no server can sequence")
	rs := examine(t, url, nil, "wake")
	rs.want(t, "wake", Note, "poll, at most 50 ms late", "may not replicate")
	rs.mends(t, conn, "wake")
	examine(t, url, nil, "wake").want(t, "wake", OK)
}

// A cluster on which the WAL cannot be followed.
func TestNotLogical(t *testing.T) {
	t.Parallel()
	c := pgtest.Private(t, &devpg.Options{Settings: map[string]string{"wal_level": "replica", "max_replication_slots": "1", "max_prepared_transactions": "5"}})
	url := c.URL("postgres")
	if err := migrations.Up(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	names := []string{"wal-level", "replication", "wake", "capture-slot"}
	rs := examine(t, url, nil, names...)
	rs.want(t, "wal-level", OK, "replica")
	rs.want(t, "replication", OK, "nobody could: wal_level is replica")
	rs.want(t, "wake", Note, "poll, at most 50 ms late", "they would follow the WAL, but wal_level is replica")
	rs = examine(t, url, wakes(replay.WakeWAL), names...)
	rs.want(t, "wal-level", Warn, "told wake=wal", "wal_level = logical")
	rs.want(t, "replication", Warn, "of no use: wal_level is replica", "wal_level = logical")

	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	run(t, conn, "create table t (id int primary key); select pgcast.attach('t'); update pgcast.attachment set via = 'wal'")
	rs = examine(t, url, nil, names...)
	rs.want(t, "wal-level", Fail, "replica, and 1 table captured from the WAL")
	rs.want(t, "replication", Fail, "1 table cannot be captured", "wal_level is replica")
	rs.mends(t, conn, "wal-level")
	conn.Close(t.Context())
	if err := c.Restart(t.Context(), devpg.Fast); err != nil {
		t.Fatal(err)
	}
	rs = examine(t, url, nil, names...)
	if !strings.Contains(rs[1].Found, "replica") { // given on the command line, which wins
		rs.want(t, "wal-level", OK, "logical")
	}

	c = pgtest.Private(t, &devpg.Options{Settings: map[string]string{"max_replication_slots": "1", "max_wal_senders": "2"}})
	url = c.URL("postgres")
	if err := migrations.Up(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	if conn, err = pgx.Connect(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	run(t, conn, "select pg_create_physical_replication_slot('other')")
	examine(t, url, nil, "replication").want(t, "replication", OK)
	rs = examine(t, url, wakes(replay.WakeWAL), "replication")
	rs.want(t, "replication", Warn, "1 of 1 slots", "nobody can make one more", "max_replication_slots = 11")
	rs.mends(t, conn, "replication")
}

func TestDecoding(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, &pgtest.Options{Kind: pgtest.Logical})
	conn := db.Conn(t)
	examine(t, db.URL, nil, "decoding").want(t, "decoding", OK, "no table is captured")
	attachWAL(t, conn, "t")
	examine(t, db.URL, nil, "decoding").want(t, "decoding", OK, "logical_decoding_work_mem is 64MB", "0 written to disk")
	for _, value := range []string{"64kB", "2GB"} {
		run(t, conn, "alter database "+db.Name+" set logical_decoding_work_mem = '"+value+"'")
		examine(t, db.URL, nil, "decoding").want(t, "decoding", Note, "logical_decoding_work_mem is "+value, "'64MB'")
	}
}

// attachWAL makes a table and captures it from the WAL.
func attachWAL(t testing.TB, conn *pgx.Conn, table string) {
	t.Helper()
	openSlot(t, conn)
	run(t, conn, "create table "+table+" (id int primary key)")
	run(t, conn, "select pgcast.attach('"+table+"', capture => 'wal')")
}

// openSlot makes the slot, and gives its name.
func openSlot(t testing.TB, conn *pgx.Conn) (slot string) {
	t.Helper()
	const sql = "select pgcast.open_slot()"
	err := conn.QueryRow(t.Context(), sql).Scan(&slot)
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "XX000" {
		// When others change the catalogs meanwhile, Postgres may make the slot and then lose
		// its own book-keeping of the statement. The slot is there.
		err = conn.QueryRow(t.Context(), sql).Scan(&slot)
	}
	if err != nil {
		t.Fatal(err)
	}
	return slot
}
