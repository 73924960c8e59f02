package doctor

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/migrations"
)

// mend runs Fix, and gives what it tells.
func mendAll(t testing.TB, url string) results {
	t.Helper()
	var rs results
	if err := New(&Options{DatabaseURL: url, CheckTimeout: patience}).Fix(t.Context(), func(r Result) error {
		rs = append(rs, r)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, r := range rs {
		if r.Name == "" || r.Found == "" || r.Why == "" || (r.Mend == "") != (r.With == "") || (r.State == Fixed) != (r.Mend == "") {
			t.Errorf("a result is not whole: %+v", r)
		}
	}
	return rs
}

func TestFix(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, &pgtest.Options{Kind: pgtest.Logical})
	conn := db.Conn(t)
	slot := openSlot(t, conn)
	run(t, conn, "select pg_create_physical_replication_slot('"+db.Name+"')")
	defer db.Exec(t, "select pg_drop_replication_slot('"+db.Name+"')")
	run(t, conn, `drop publication pgcast_steps; create table t (id int primary key); select pgcast.attach('t'); alter table t add column x int;
		insert into pgcast.stage (session, xid, n, subxid, topic, event) values (1, '5', 1, 5, 'a', 'b'), (1, '5', 2, 5, 'a', 'b')`)
	run(t, conn, "insert into pgcast.published (id, topic, event, data, created_at) select g, 'a', 'e' || g, '1', now() from generate_series(90001, 90003) g")
	rs := mendAll(t, db.URL)
	rs.want(t, "publications", Fixed, "made publications that were missing: pgcast_steps")
	rs.want(t, "capture-slot", Fixed, "dropped slot "+slot)
	rs.want(t, "published", Fixed, "3 events")
	rs.want(t, "published", Fixed, "deleted 2 events")
	rs.want(t, "triggers", Fixed, "1")
	if len(rs) != 5 {
		t.Errorf("%+v", rs)
	}
	for _, name := range []string{"publications", "capture-slot", "published", "triggers"} {
		examine(t, db.URL, nil, name).want(t, name, OK)
	}
	if got := pgtest.Value[string](t, db, "select string_agg(topic || event || (origin).id, ' ' order by id) from pgcast.event_log"); got != "ae90001"+"90001 ae90002"+"90002 ae90003"+"90003" {
		t.Errorf("the log has %s", got)
	}
	if !pgtest.Value[bool](t, db, "select exists (select from pg_replication_slots where slot_name = current_database())") {
		t.Error("it has dropped a slot of somebody else")
	}
	if rs := mendAll(t, db.URL); len(rs) != 0 {
		t.Errorf("a second time: %+v", rs)
	}
}

// What is in use is left alone.
func TestFixLeavesAlone(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, &pgtest.Options{Kind: pgtest.Logical})
	conn := db.Conn(t)
	attachWAL(t, conn, "t")
	slot := pgtest.Value[string](t, db, "select pgcast.slot_name()")
	run(t, conn, "select pgcast.publish('a', 'b')")
	if rs := mendAll(t, db.URL); len(rs) != 0 {
		t.Errorf("with a table that is captured: %+v", rs)
	}
	stop := read(t, db.URL, slot)
	run(t, conn, "insert into pgcast.stage (session, xid, n, subxid, topic, event) values (1, '5', 1, 5, 'a', 'b'); select pgcast.detach('t')")
	if rs := mendAll(t, db.URL); len(rs) != 0 {
		t.Errorf("with a server that reads the slot: %+v", rs)
	}
	stop()
	until(t, "nobody reads the slot", func() bool {
		return !pgtest.Value[bool](t, db, "select active from pg_replication_slots where slot_name = $1", slot)
	})
	// A role that may not do it is told so, and the rest is mended all the same.
	name, url := role(t, db, "")
	run(t, conn, "grant usage on schema pgcast to "+name+"; grant all on all tables in schema pgcast to "+name+"; grant execute on all functions in schema pgcast to "+name)
	rs := mendAll(t, url)
	rs.want(t, "capture-slot", Fail, "could not be mended", "as a role that may")
	rs.want(t, "published", Fixed, "1 events")
	mendAll(t, db.URL).want(t, "capture-slot", Fixed, slot)
}

// On a database where all is well nothing is written, and one without pgcast is none of its
// business.
func TestFixChangesNothing(t *testing.T) {
	t.Parallel()
	c := pgtest.Private(t, nil)
	url := c.URL("postgres")
	if rs := mendAll(t, url); len(rs) != 0 {
		t.Errorf("without schema pgcast: %+v", rs)
	}
	if err := migrations.Up(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	attachWAL(t, conn, "t")
	run(t, conn, "create table u (id int primary key); select pgcast.attach('u')")
	next := func() (xid string) {
		t.Helper()
		if err := conn.QueryRow(t.Context(), "select pg_snapshot_xmax(pg_current_snapshot())::text").Scan(&xid); err != nil {
			t.Fatal(err)
		}
		return xid
	}
	run(t, conn, "alter system set autovacuum = off")
	run(t, conn, "select pg_reload_conf()")
	var rs results
	until(t, "nothing else in the cluster writes", func() bool {
		before := next()
		rs = append(rs, mendAll(t, url)...)
		return before == next()
	})
	if len(rs) != 0 {
		t.Errorf("%+v", rs)
	}
}
