package main

import (
	"encoding/json"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast/internal/devpg"
	"github.com/pgcast/pgcast/internal/pgtest"
)

func slots(t *testing.T, db *pgtest.DB) int {
	t.Helper()
	return pgtest.Value[int](t, db, "select count(*) from pg_replication_slots where database = current_database() and not temporary")
}

func TestAttachWAL(t *testing.T) {
	t.Parallel()
	s, db := withDatabase(t, &pgtest.Options{Kind: pgtest.Logical})
	db.Exec(t, "create table orders (id int primary key, note text); create table lines (id int primary key); create table keyless (id int)")
	slot := pgtest.Value[string](t, db, "select pgcast.slot_name()")

	// What is refused leaves no slot behind.
	s.run(t, "attach", "nosuch", "--capture", "wal").fails(t, 1, `relation "nosuch" does not exist`)
	s.run(t, "attach", "keyless", "--capture", "wal").fails(t, 1, "public.keyless cannot be captured from the WAL", "alter table public.keyless replica identity full")
	if n := slots(t, db); n != 0 {
		t.Fatalf("%d slots after attach was refused", n)
	}

	r := s.run(t, "attach", "orders", "--topic", "order:{id}", "--capture", "wal")
	if r.ok(t) != "" || !strings.Contains(r.err, "made replication slot "+slot+"\norders is attached: its writes are events of order:{id}\n") || strings.Contains(r.err, "NOTICE") {
		t.Errorf("attach --capture wal:\n%s", r)
	}
	if r := s.run(t, "attach", "lines", "--capture=wal"); r.ok(t) != "" || strings.Contains(r.err, "slot") {
		t.Errorf("the slot was there:\n%s", r)
	}
	db.Exec(t, "create table plain (id int); select pgcast.attach('plain'); create table moved (id int primary key); select pgcast.attach('moved')")
	if r := s.run(t, "attach", "moved", "--capture", "wal"); strings.Contains(r.err, "NOTICE") {
		t.Errorf("what goes with the triggers is told:\n%s", r)
	}
	s.run(t, "detach", "moved").ok(t)
	var ways []string
	for line := range strings.SplitSeq(s.run(t, "attached", "--json").ok(t), "\n") {
		var row attachedRow
		if err := json.Unmarshal([]byte(line), &row); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		ways = append(ways, row.Table+" "+row.Capture)
	}
	if got := strings.Join(ways, ", "); got != "public.lines wal, public.orders wal, public.plain trigger" {
		t.Errorf("attached --json: %s", got)
	}
	if out := s.run(t, "attached").ok(t); !strings.Contains(out, "public.orders\torder:{id}\tall\twal\t") {
		t.Errorf("attached:\n%s", out)
	}

	// The slot goes with the last table.
	if r := s.run(t, "detach", "orders"); r.ok(t) != "" || r.err != "orders is detached\n" {
		t.Errorf("detach:\n%s", r)
	}
	if n := slots(t, db); n != 1 {
		t.Fatalf("%d slots while a table is captured by one", n)
	}
	if r := s.run(t, "detach", "lines"); r.ok(t) != "" || r.err != "lines is detached\ndropped replication slot "+slot+": no table is captured by it any more\n" {
		t.Errorf("the last detach:\n%s", r)
	}
	if n := slots(t, db); n != 0 {
		t.Fatalf("%d slots are left", n)
	}

	// What --print prints does what the command does.
	script := s.run(t, "attach", "orders", "--capture", "wal", "--print").ok(t)
	if n := slots(t, db); n != 0 || !strings.Contains(script, "select pgcast.open_slot();\n\nbegin;\n") {
		t.Errorf("%d slots after --print:\n%s", n, script)
	}
	first, rest, _ := strings.Cut(script, "\n\n")
	s.pipe(t, first, "sql").ok(t)
	s.pipe(t, rest, "sql").ok(t)
	if out := s.run(t, "attached").ok(t); !strings.Contains(out, "public.orders\torders\tall\twal\t") {
		t.Errorf("attached:\n%s", out)
	}

	// A server that reads the slot drops it by itself, and is not hindered.
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
	if r := s.run(t, "detach", "orders"); r.ok(t) != "" || !strings.Contains(r.err, "the server that reads it drops it\n") {
		t.Errorf("detach while the slot is read:\n%s", r)
	}
	if n := slots(t, db); n != 1 {
		t.Errorf("%d slots while one is read", n)
	}
	db.Exec(t, "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = '"+slot+"'")
	<-done
}

// Who keeps the slot from being made is named, and nothing is left of it.
func TestAttachWALWaits(t *testing.T) {
	t.Parallel()
	c := pgtest.Private(t, &devpg.Options{Settings: map[string]string{"max_prepared_transactions": "2"}})
	s := newShell(t, "PGCAST_DATABASE_URL="+c.URL("postgres"))
	s.run(t, "migrate", "up").ok(t)
	s.run(t, "sql", "create table orders (id int primary key); create table other (id int)").ok(t)
	conn, err := pgx.Connect(t.Context(), c.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	write := func(sql string) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	write("begin")
	write("insert into other values (1)")
	s.run(t, "attach", "orders", "--capture", "wal", "--wait", "700ms").fails(t, 1, "waited 700ms for the replication slot, which is made when transactions that are open have ended: session ", "select pg_terminate_backend(", "--wait 10m")
	if out := s.run(t, "sql", "select count(*) from pg_replication_slots").ok(t); out != "count\n0" {
		t.Errorf("slots: %s", out)
	}
	p := s.start(t, "attach", "orders", "--capture", "wal")
	p.says("waiting for transactions that are open")
	if code := p.stop(syscall.SIGINT); code != 1 {
		t.Errorf("exit code %d after Ctrl-C", code)
	}
	p.says("pgcast: interrupted")
	p = s.start(t, "attach", "orders", "--capture", "wal")
	p.says("waiting for transactions that are open")
	write("commit")
	p.says("orders is attached")
	s.run(t, "detach", "orders").ok(t)

	write("begin")
	write("insert into other values (2)")
	write("prepare transaction 'left over'")
	s.run(t, "attach", "orders", "--capture", "wal", "--wait", "700ms").fails(t, 1, "have ended: prepared transaction 'left over' of postgres in postgres", "rollback prepared 'left over'")
	write("rollback prepared 'left over'")
	s.run(t, "attach", "orders", "--capture", "wal").ok(t)
	s.run(t, "uninstall", "--yes").ok(t)
	if out := s.run(t, "sql", "select count(*) from pg_replication_slots").ok(t); out != "count\n0" {
		t.Errorf("slots: %s", out)
	}
}

// Where it cannot be, that is said, with what to do.
func TestAttachWALRefused(t *testing.T) {
	t.Parallel()
	c := pgtest.Private(t, &devpg.Options{Settings: map[string]string{"wal_level": "replica"}})
	s := newShell(t, "PGCAST_DATABASE_URL="+c.URL("postgres"))
	s.run(t, "migrate", "up").ok(t)
	s.run(t, "sql", "create table orders (id int primary key)").ok(t)
	s.run(t, "attach", "orders", "--capture", "wal").fails(t, 1, "wal_level is replica, capture from the WAL needs logical", "alter system set wal_level = logical", "Or capture by trigger.")

	_, db := withDatabase(t, &pgtest.Options{Kind: pgtest.Logical, Empty: true})
	role := db.Name + "_r"
	db.Exec(t, "create role "+role+" login; grant create on database "+db.Name+" to "+role+"; grant create on schema public to "+role)
	defer db.Exec(t, "drop owned by "+role+" cascade; drop role "+role)
	s = newShell(t, "PGCAST_DATABASE_URL="+strings.Replace(db.URL, "postgres@", role+"@", 1))
	s.run(t, "migrate", "up").ok(t)
	s.run(t, "sql", "create table orders (id int primary key)").ok(t)
	s.run(t, "attach", "orders", "--capture", "wal").fails(t, 1, "alter role "+role+" replication; or capture by trigger")
}

// What the banner of pgcast dev suggests works, and outlives the next start.
func TestDemoByWAL(t *testing.T) {
	t.Parallel()
	s, db := withDatabase(t, &pgtest.Options{Kind: pgtest.Logical})
	pool := db.Pool(t)
	if err := makeDemo(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	s.run(t, "sql", "alter table demo.messages replica identity full").ok(t)
	s.run(t, "attach", "demo.messages", "--topic", "room:{room_id}", "--old", "--capture", "wal").ok(t)
	if err := makeDemo(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	out := s.run(t, "attached").ok(t)
	if !strings.Contains(out, "demo.messages\troom:{room_id}\tall\twal\told") || !strings.Contains(out, "demo.cards\tboard:{board_id}\tall\ttrigger\told") {
		t.Errorf("attached:\n%s", out)
	}
	s.run(t, "detach", "demo.messages").ok(t)
}
