package main

import (
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/migrations"
)

// leftovers counts what pgcast has in a database.
func leftovers(t *testing.T, db *pgtest.DB) int {
	t.Helper()
	return pgtest.Value[int](t, db, `select (select count(*) from pg_replication_slots where database = current_database())
		+ (select count(*) from pg_publication where pubname like 'pgcast%')
		+ (select count(*) from pg_namespace where nspname = 'pgcast')
		+ (select count(*) from pg_class where relname like '%pgcast%')
		+ (select count(*) from pg_trigger where tgname like '%pgcast%')
		+ (select count(*) from pg_proc p join pg_namespace n on n.oid = p.pronamespace where n.nspname = 'pgcast')`)
}

// openSlot makes the slot, and gives its name.
func openSlot(t *testing.T, db *pgtest.DB) string {
	t.Helper()
	conn := db.Conn(t)
	var slot string
	err := conn.QueryRow(t.Context(), makeSlot).Scan(&slot)
	if isPostgres(err, "XX000") { // see app.openSlot
		err = conn.QueryRow(t.Context(), makeSlot).Scan(&slot)
	}
	if err != nil {
		t.Fatal(err)
	}
	return slot
}

func TestUninstall(t *testing.T) {
	t.Parallel()
	s, db := withDatabase(t, &pgtest.Options{Kind: pgtest.Logical})
	db.Exec(t, `create table "Odd" (id int primary key, b text); create table parted (id int primary key) partition by range (id);
		create table part partition of parted for values from (0) to (10); create table streamed (id int primary key);
		alter table streamed replica identity full; alter publication pgcast_capture add table streamed;
		select pgcast.attach('"Odd"'), pgcast.attach('parted'); insert into "Odd" values (1, 'x')`)
	slot := openSlot(t, db)

	r := s.run(t, "uninstall")
	r.fails(t, 1, "removes everything", "with the whole log", "add --yes")
	for _, line := range []string{
		"captured\t\"Odd\"\t4 triggers\n", "captured\tparted\t", "captured\tstreamed\tfrom the WAL; keeps REPLICA IDENTITY FULL\n",
		"publication\tpgcast_wake\t", "publication\tpgcast_steps\t", "publication\tpgcast_capture\t", "schema\tpgcast\t",
		"table\tpublic." + migrations.Table + "\t", "slot\t" + slot + "\tnobody reads it\n",
	} {
		if strings.Count(r.out, line) != 1 {
			t.Errorf("want %q once:\n%s", line, r)
		}
	}
	if strings.Contains(r.out, "\tpart\t") {
		t.Errorf("a partition goes with its root:\n%s", r)
	}
	if left := leftovers(t, db); left < 10 {
		t.Fatalf("without --yes it has removed something: %d left", left)
	}
	if r := s.run(t, "uninstall", "--json"); !strings.Contains(r.out, `{"kind":"slot","name":"`+slot+`","more":"nobody reads it"}`) {
		t.Errorf("uninstall --json:\n%s", r)
	}

	// What others have built on it is theirs.
	db.Exec(t, "create view mine as select * from pgcast.history")
	s.run(t, "uninstall", "--yes").fails(t, 1, "view public.mine would go with schema pgcast")
	db.Exec(t, "drop view mine; create table uses (id int, e text default pgcast.publish('a', 'b'))")
	s.run(t, "uninstall", "--yes").fails(t, 1, "default value for public.uses.e would go with schema pgcast")
	db.Exec(t, "drop table uses")

	// A transaction that is in the way is named, and nothing is gone when it does not end.
	holder := db.Conn(t)
	for _, sql := range []string{"begin", `insert into "Odd" values (2, 'y')`} {
		if _, err := holder.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	before := leftovers(t, db)
	r = s.run(t, "uninstall", "--yes", "--wait", "100ms")
	r.fails(t, 1, "waited 100ms for the tables: session ", "idle in transaction", "select pg_terminate_backend(", "--wait 10m")
	if left := leftovers(t, db); left != before {
		t.Errorf("%d of %d left", left, before)
	}
	if _, err := holder.Exec(t.Context(), "commit"); err != nil {
		t.Fatal(err)
	}

	r = s.run(t, "uninstall", "--yes")
	if r.ok(t) != "" {
		t.Errorf("uninstall --yes:\n%s", r)
	}
	for _, line := range []string{`detached "Odd" (4 triggers)`, "detached streamed (from the WAL; keeps REPLICA IDENTITY FULL)", "removed publication pgcast_wake",
		"removed schema pgcast", "removed table public." + migrations.Table, "removed slot " + slot, "has nothing of pgcast any more"} {
		if strings.Count(r.err, line+"\n") != 1 {
			t.Errorf("want %q once:\n%s", line, r)
		}
	}
	if left := leftovers(t, db); left != 0 {
		t.Errorf("%d things are left", left)
	}
	db.Exec(t, `insert into "Odd" values (3, 'z'); update streamed set id = 1; insert into parted values (1)`)
	if r := s.run(t, "uninstall", "--yes"); r.ok(t) != "" || !strings.Contains(r.err, "nothing to remove") {
		t.Errorf("a second time:\n%s", r)
	}
	s.run(t, "migrate", "up").ok(t) // and it can come back
	s.run(t, "attach", `"Odd"`).ok(t)
}

// Whatever is left of an installation goes.
func TestUninstallRuins(t *testing.T) {
	t.Parallel()
	for name, ruin := range map[string]string{
		"schema dropped by hand": "drop schema pgcast cascade",
		"half gone":              "drop table pgcast.attachment, pgcast.published, pgcast.captured cascade; drop function pgcast.slot_name cascade",
		"an older version":       "alter table pgcast.attachment drop column via; drop table pgcast.published cascade; drop publication pgcast_capture",
		"no versions noted":      "drop table " + migrations.Table,
	} {
		t.Run(name, func(t *testing.T) {
			s, db := withDatabase(t, &pgtest.Options{Kind: pgtest.Logical})
			db.Exec(t, "create table t (id int primary key); select pgcast.attach('t')")
			openSlot(t, db)
			db.Exec(t, ruin)
			s.run(t, "uninstall", "--yes").ok(t)
			if left := leftovers(t, db); left != 0 {
				t.Errorf("%d things are left", left)
			}
			db.Exec(t, "insert into t values (1)")
		})
	}
}

// A server that runs, and somebody who reads the slot, keep nothing.
func TestUninstallUnderAServer(t *testing.T) {
	t.Parallel()
	s, db := withDatabase(t, &pgtest.Options{Kind: pgtest.Logical})
	db.Exec(t, "create table t (id int primary key); select pgcast.attach('t')")
	slot := openSlot(t, db)
	server := s.start(t, "serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--wake", "notify")
	eventually(t, "the server sequences", func() bool {
		return pgtest.Value[bool](t, db, `select exists (select from pg_locks where locktype = 'advisory' and objid = 2 and granted
			and database = (select oid from pg_database where datname = current_database()))`)
	})
	reader, err := pgx.Connect(t.Context(), db.URL+"&replication=database")
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close(t.Context())
	go func() { // until its session is ended
		_, _ = reader.PgConn().Exec(t.Context(), "START_REPLICATION SLOT "+slot+" LOGICAL 0/0 (proto_version '1', publication_names 'pgcast_capture')").ReadAll()
	}()
	eventually(t, "the slot is read", func() bool {
		return pgtest.Value[bool](t, db, "select active from pg_replication_slots where slot_name = $1", slot)
	})
	s.run(t, "uninstall").fails(t, 1, "a pgcast server runs on this database at 127.0.0.1", "add --yes")
	r := s.run(t, "uninstall", "--yes")
	if r.ok(t); !strings.Contains(r.err, "a pgcast server runs") || !strings.Contains(r.err, "removed slot "+slot+"\n") {
		t.Errorf("uninstall under a server:\n%s", r)
	}
	if left := leftovers(t, db); left != 0 {
		t.Errorf("%d things are left", left)
	}
	server.stop(syscall.SIGTERM)
	if left := leftovers(t, db); left != 0 {
		t.Errorf("the server has left %d things", left)
	}
}

// A writer who already has locks on the log, and then wants one of a table, is not made to
// fail by whoever waits for the log with that table in his hands.
func TestUninstallGivesWay(t *testing.T) {
	t.Parallel()
	s, db := withDatabase(t, &pgtest.Options{Kind: pgtest.Logical})
	db.Exec(t, "create table t (id int primary key); select pgcast.attach('t')")
	writer := db.Conn(t)
	write := func(sql string) {
		t.Helper()
		if _, err := writer.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	write("begin")
	write("select pgcast.publish('a', 'b')")
	p := s.start(t, "uninstall", "--yes")
	p.says("waiting for the tables: session ")
	write("insert into t values (1)")
	write("commit")
	p.says("has nothing of pgcast any more")
	if left := leftovers(t, db); left != 0 {
		t.Errorf("%d things are left", left)
	}
}

// Taking back the migrations leaves no slot and no publication either.
func TestMigrateDownLeavesNoSlot(t *testing.T) {
	t.Parallel()
	s, db := withDatabase(t, &pgtest.Options{Kind: pgtest.Logical})
	db.Exec(t, "create table t (id int primary key)")
	s.run(t, "attach", "t", "--capture", "wal").ok(t)
	slot := pgtest.Value[string](t, db, "select pgcast.slot_name()")
	reader, err := pgx.Connect(t.Context(), db.URL+"&replication=database")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { // until its session is ended
		defer close(done)
		_, _ = reader.PgConn().Exec(t.Context(), "START_REPLICATION SLOT "+slot+" LOGICAL 0/0 (proto_version '1', publication_names 'pgcast_capture')").ReadAll()
	}()
	eventually(t, "the slot is read", func() bool {
		return pgtest.Value[bool](t, db, "select active from pg_replication_slots where slot_name = $1", slot)
	})
	down := func() *result { return s.run(t, "migrate", "down", "--yes") }
	for pgtest.Value[bool](t, db, "select to_regproc('pgcast.check_slot') is not null") {
		down().ok(t)
	}
	down().fails(t, 1, "a server reads replication slot "+slot, "Stop the servers first.")
	db.Exec(t, "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = '"+slot+"'")
	<-done
	for pgtest.Value[bool](t, db, "select to_regnamespace('pgcast') is not null") {
		down().ok(t)
	}
	if n := pgtest.Value[int](t, db, `select (select count(*) from pg_replication_slots where database = current_database())
		+ (select count(*) from pg_publication) + (select count(*) from pg_trigger)`); n != 0 {
		t.Errorf("%d things are left", n)
	}
	s.run(t, "uninstall", "--yes").ok(t) // goose's empty table
	if left := leftovers(t, db); left != 0 {
		t.Errorf("%d things are left", left)
	}
}
