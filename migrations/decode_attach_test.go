package migrations_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/migrations"
)

// What cannot be captured from the WAL is refused with the statement that mends it, and it does.
func TestAttachWALRefuses(t *testing.T) {
	t.Parallel()
	w := newWAL(t)
	w.db.Exec(t, `
		create table plain (id int primary key, room int, body text);
		create table bare (a int, b int);
		create table shy (id int primary key, a int); alter table shy replica identity nothing;
		create table empty (); alter table empty replica identity full;
		create unlogged table unlogged (id int primary key);
		create table late (id int primary key deferrable, a int);
		create table parent (id int primary key); create table child () inherits (parent);
		create table other (id int primary key, a int not null unique); alter table other replica identity using index other_a_key;
		create table parted (id int, room int, primary key (id, room)) partition by list (room);
		create table parted_1 partition of parted for values in (1);
		create table keyless (id int, room int) partition by list (room);
		create table nothing (id int primary key) partition by list (id);
		create table nothing_1 partition of nothing for values in (1); alter table nothing_1 replica identity nothing`)
	const state = "55000"
	tests := []struct{ call, code, message, hint string }{
		{`'plain', topic => 'r:{room}'`, state, "leaves out room, and the topic of a deleted row is made of it", "alter table public.plain replica identity full;"},
		{`'plain', old => true`, state, "leaves out old values", "alter table public.plain replica identity full;"},
		{`'bare'`, state, "has no REPLICA IDENTITY", "alter table public.bare replica identity full;"},
		{`'shy'`, state, "has no REPLICA IDENTITY", "alter table public.shy replica identity full;"},
		{`'empty'`, state, "no columns", "by trigger"},
		{`'unlogged'`, state, "is unlogged", "alter table public.unlogged set logged;"},
		{`'late'`, state, "deferrable", "alter table public.late drop constraint late_pkey, add primary key (id);"},
		{`'parent'`, "42809", "it has children", "by trigger"},
		{`'other'`, state, "leaves out the key (id)", "alter table public.other replica identity full;"},
		{`'parted', old => true`, state, "old values of partitions", "by trigger"},
		{`'keyless'`, state, "partitions", "by trigger"},
		{`'nothing'`, state, "public.nothing_1 has no REPLICA IDENTITY", "REPLICA IDENTITY"},
		{`'plain', capture => 'walrus'`, "22023", "'walrus'", "write-ahead log"},
		{`'plain', capture => null`, "22023", "NULL", "write-ahead log"},
	}
	conn := w.db.Conn(t)
	for _, tt := range tests {
		call := "select pgcast.attach(" + tt.call + ", capture => 'wal')"
		if strings.Contains(tt.call, "capture") {
			call = "select pgcast.attach(" + tt.call + ")"
		}
		_, err := conn.Exec(t.Context(), call)
		var pg *pgconn.PgError
		if !errors.As(err, &pg) {
			t.Errorf("attach(%s): got %v, want error %s", tt.call, err, tt.code)
		} else if pg.Code != tt.code || !strings.Contains(pg.Message, tt.message) || !strings.Contains(pg.Hint, tt.hint) {
			t.Errorf("attach(%s): got %s %q hint %q, want %s %q hint %q", tt.call, pg.Code, pg.Message, pg.Hint, tt.code, tt.message, tt.hint)
		} else if strings.HasPrefix(pg.Hint, "alter table public.") {
			if _, err := conn.Exec(t.Context(), pg.Hint+call); err != nil {
				t.Errorf("attach(%s) after %s: %v", tt.call, pg.Hint, err)
			}
			if _, err := conn.Exec(t.Context(), `select pgcast.detach(relation) from pgcast.attachment; alter table plain replica identity default`); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := conn.Exec(t.Context(), `select pgcast.attach('parted', topic => 'r:{room}', capture => 'wal')`); err != nil {
		t.Errorf("a partitioned table whose topic is made of its primary key: %v", err)
	}
	if got := pgtest.Value[string](t, w.db, `select string_agg(prrelid::regclass::text, ',' order by prrelid::regclass::text) from pg_publication_rel join pg_publication p on p.oid = prpubid where pubname = 'pgcast_capture'`); got != "parted,pgcast.published" {
		t.Errorf("published: %s", got)
	}
}

// Without a slot nothing is attached, and what to do is said.
func TestAttachWALNeedsSlot(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, &pgtest.Options{Kind: pgtest.Logical})
	_, err := db.Conn(t).Exec(t.Context(), messages+`select pgcast.attach('messages', capture => 'wal')`)
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || pg.Code != "55000" || !strings.Contains(pg.Hint, "select pgcast.open_slot();") {
		t.Errorf("attach without a slot: %v", err)
	}
	doorbell := pgtest.New(t, nil)
	_, err = doorbell.Conn(t).Exec(t.Context(), messages+`select pgcast.attach('messages', capture => 'wal')`)
	if pgtest.Value[string](t, doorbell, `show wal_level`) != "logical" && (!errors.As(err, &pg) || !strings.Contains(pg.Message, "wal_level")) {
		t.Errorf("attach without logical decoding: %v", err)
	}
}

// What --print shows is what attach runs, also for the WAL, and it begins with the slot.
func TestAttachWALSQL(t *testing.T) {
	t.Parallel()
	w := newWAL(t)
	const state = `select (to_jsonb(a) - 'attached_at')::text || (select count(*) from pg_trigger) || (select string_agg(prrelid::regclass::text, ',' order by prrelid) from pg_publication_rel)
		from pgcast.attachment a`
	const options = `('messages', 'room:{room_id}', without => '{body}', old => true, numbers => 'text', capture => 'wal')`
	w.db.Exec(t, messages+`alter table messages replica identity full; select pgcast.attach`+options)
	want := pgtest.Value[string](t, w.db, state)
	script := pgtest.Value[string](t, w.db, `select string_agg(s, e';\n' order by i) from pgcast.attach_sql`+options+` with ordinality x (s, i)`)
	w.db.Exec(t, pgtest.Value[string](t, w.db, `select string_agg(s, '; ') from pgcast.detach_sql('messages') s`))
	if n := pgtest.Value[int](t, w.db, `select (select count(*) from pgcast.attachment) + (select count(*) from pg_publication_rel where prrelid = 'messages'::regclass)`); n != 0 {
		t.Errorf("%d things left by the script of detach", n)
	}
	w.db.Exec(t, `select pgcast.close_slot()`)
	w.db.Exec(t, "begin; "+script+"; commit")
	if diff := cmp.Diff(want, pgtest.Value[string](t, w.db, state)); diff != "" {
		t.Errorf("attach() and its printed script differ (-attach +script):\n%s", diff)
	}
	w.db.Exec(t, script) // again does no harm
}

// From triggers to the WAL and back: one of the two sees each write.
func TestAttachWALSwitch(t *testing.T) {
	t.Parallel()
	w := newWAL(t)
	w.db.Exec(t, `create table t (id int primary key, n int); select pgcast.attach('t'); insert into t values (1)`)
	w.db.Exec(t, `begin; select pgcast.attach('t', capture => 'wal'); insert into t values (2); commit; update t set n = 2 where id = 2`)
	_, err := w.db.Conn(t).Exec(t.Context(), `select pgcast.attach('t')`)
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || pg.Code != "55000" || !strings.Contains(pg.Hint, "Start a server") {
		t.Errorf("back to triggers while nobody reads the WAL: %v", err)
	}
	var notices []string
	cfg, err := pgx.ParseConfig(w.db.URL)
	if err != nil {
		t.Fatal(err)
	}
	cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { notices = append(notices, n.Message) }
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), `insert into t values (3); select pgcast.detach('t')`); err != nil {
		t.Fatal(err)
	}
	w.db.Exec(t, `insert into t values (4); select pgcast.attach('t'); insert into t values (5); delete from t where id = 1`)
	if len(notices) != 1 || !strings.Contains(notices[0], "select pgcast.close_slot()") {
		t.Errorf("detach of the last table says %q", notices)
	}
	w.read(t)
	if diff := cmp.Diff([]string{` created {"id":1,"n":null}`, ` created {"id":5,"n":null}`, ` deleted old {"id":1}`}, w.events(t, "t", false)); diff != "" {
		t.Errorf("by trigger (-want +got):\n%s", diff)
	}
	if got := w.events(t, "t", true); len(got) != 0 {
		t.Errorf("detached, then read: %q", got)
	}
	w.db.Exec(t, `select pgcast.detach('t')`)
	notices = nil
	if _, err := conn.Exec(t.Context(), `select pgcast.attach('t', capture => 'wal'); update t set n = 1 where id = 2`); err != nil {
		t.Fatal(err)
	}
	if len(notices) > 0 {
		t.Errorf("attach says %q", notices)
	}
	w.db.Exec(t, `select pgcast.unfollow_table('t'); update t set n = 3 where id = 2; update pgcast.attachment set via = 'trigger'`)
	w.read(t)
	if diff := cmp.Diff([]string{` updated {"id":2,"n":1} old {"id":2}`}, w.events(t, "t", true)); diff != "" {
		t.Errorf("what was in the WAL when it went back to triggers (-want +got):\n%s", diff)
	}
}

// All the way down with a table captured from the WAL: nothing stays in the way of writers,
// and nothing that keeps WAL.
func TestDownWAL(t *testing.T) {
	t.Parallel()
	w := newWAL(t)
	w.db.Exec(t, messages+`select pgcast.attach('messages', capture => 'wal'); select pgcast.publish('a', 'b'); alter table messages drop constraint messages_pkey`)
	if n := pgtest.Value[int](t, w.db, `select count(*) from pgcast.published`); n != 1 {
		t.Fatalf("%d events wait to be read in the WAL, want 1", n)
	}
	for range migrations.Versions() {
		if pgtest.Value[bool](t, w.db, `select to_regclass('pgcast.published') is null`) {
			break
		}
		if err := migrations.Down(t.Context(), w.db.URL); err != nil {
			t.Fatal(err)
		}
	}
	if n := pgtest.Value[int](t, w.db, `select (select count(*) from pg_publication) + (select count(*) from pg_replication_slots where database = current_database())`); n != 0 {
		t.Errorf("%d publications and slots left", n)
	}
	if n := pgtest.Value[int](t, w.db, `select count(*) from pgcast.event_log where event = 'b'`); n != 1 {
		t.Errorf("an event that waited is in the log %d times", n)
	}
	w.db.Exec(t, `insert into messages values (1); update messages set body = 'x'`)
	if err := migrations.Up(t.Context(), w.db.URL); err != nil {
		t.Fatal(err)
	}
	w.db.Exec(t, `select pgcast.publish('a', 'b')`)
}

// Whoever refreshes must be able to take a table out of the publication again.
func TestAttachWALKeeper(t *testing.T) {
	t.Parallel()
	w := newWAL(t)
	keeper := w.db.Name
	w.db.Exec(t, `create table t (id int primary key)`)
	w.db.Exec(t, `create role `+keeper+`; grant usage on schema pgcast to `+keeper)
	t.Cleanup(func() {
		if _, err := w.conn.Exec(context.Background(), `drop owned by `+keeper+`; drop role `+keeper); err != nil {
			t.Error(err)
		}
	})
	w.db.Exec(t, `alter function pgcast.refresh() owner to `+keeper)
	conn := w.db.Conn(t)
	_, err := conn.Exec(t.Context(), `select pgcast.attach('t', capture => 'wal')`)
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || pg.Code != "42501" || !strings.Contains(pg.Hint, "alter publication pgcast_capture owner to "+keeper) {
		t.Fatalf("%v", err)
	}
	for sql := range strings.SplitSeq(pg.Hint, "; ") {
		w.db.Exec(t, sql)
	}
	w.db.Exec(t, `select pgcast.attach('t', capture => 'wal'); select pgcast.detach('t');
		alter function pgcast.refresh() owner to current_user; alter publication pgcast_capture owner to current_user`)
}

// A vacuum must not keep a table in the publication that makes writes fail.
func TestUnfollowWaits(t *testing.T) {
	t.Parallel()
	w := newWAL(t)
	w.db.Exec(t, `create table t (id int primary key); insert into t values (1); select pgcast.attach('t', capture => 'wal'); alter table t drop constraint t_pkey`)
	conn, other := w.db.Conn(t), w.db.Conn(t)
	if _, err := conn.Exec(t.Context(), `begin; lock table t in share update exclusive mode`); err != nil {
		t.Fatal(err)
	}
	refreshed := make(chan error, 1)
	go func() {
		_, err := other.Exec(context.Background(), `select pgcast.refresh()`)
		refreshed <- err
	}()
	// Longer than refresh() waits for other locks.
	waits := false
	for began := time.Now(); !waits && time.Since(began) < 10*time.Second; {
		waits = pgtest.Value[bool](t, w.db, `select exists (select from pg_locks l where l.relation = 't'::regclass and not l.granted and l.waitstart < clock_timestamp() - interval '200 ms')`)
	}
	if !waits {
		t.Error("it does not wait")
	}
	if _, err := conn.Exec(t.Context(), `commit`); err != nil {
		t.Fatal(err)
	}
	if err := <-refreshed; err != nil {
		t.Fatal(err)
	}
	w.db.Exec(t, `update t set id = 2`)
}
