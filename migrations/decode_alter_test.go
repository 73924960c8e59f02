package migrations_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcast/pgcast/internal/pgtest"
)

// Rows are read with the names they had when they were written, whatever the table has become
// since, and whether anybody has looked in between.
func TestDecodedAlter(t *testing.T) {
	t.Parallel()
	const table = `create table t (id int primary key, room int, secret text, body text); alter table t replica identity full;`
	tests := []struct {
		name, options string
		steps         []string
		want          []string
	}{
		{"renamed", `topic => 'r:{room}'`,
			[]string{`insert into t values (1, 1, 's', 'b'); alter table t rename room to hall; insert into t values (2, 2, 's', 'b'); alter table t add room int; insert into t values (3, 3, 's', 'b', 9)`},
			[]string{`r:1 created {"id":1,"room":1,"secret":"s","body":"b"}`, `r:2 created {"id":2,"hall":2,"secret":"s","body":"b"}`, `r:3 created {"id":3,"hall":3,"secret":"s","body":"b","room":9}`}},
		{"a renamed secret", `topic => 'r', without => '{secret}'`,
			[]string{`insert into t values (1, 1, 's', 'b'); alter table t rename secret to open; insert into t values (2, 1, 's', 'b'); alter table t rename open to other; insert into t values (3, 1, 's', 'b')`},
			[]string{`r created {"id":1,"room":1,"body":"b"}`, `r created {"id":2,"room":1,"body":"b"}`, `r created {"id":3,"room":1,"body":"b"}`}},
		{"a secret that changes names with another", `topic => 'r', without => '{secret}'`,
			[]string{`insert into t values (1, 1, 's', 'b'); alter table t rename secret to x; alter table t rename body to secret; alter table t rename x to body; insert into t values (2, 1, 's', 'b')`},
			[]string{`r created {"id":1,"room":1}`, `r created {"id":2,"room":1}`}},
		{"a list and a renamed column", `topic => 'r', columns => '{id,body}'`,
			[]string{`insert into t values (1, 1, 's', 'b'); alter table t rename body to text; alter table t rename secret to body; insert into t values (2, 1, 's', 'b')`},
			[]string{`r created {"id":1}`, `r created {"id":2,"text":"b"}`}},
		{"a list and a renamed key", `topic => 'r:{id}', columns => '{id,body}'`,
			[]string{`alter table t rename id to number; insert into t values (1, 1, 's', 'b'); delete from t`},
			[]string{`r:1 created {"number":1,"body":"b"}`, `r:1 deleted old {"number":1}`}},
		{"a list and new columns", `topic => 'r', columns => '{id,body}'`,
			[]string{`alter table t add more text; insert into t values (1, 1, 's', 'b', 'm'); alter table t drop body; insert into t values (2, 1, 's', 'm'); alter table t add body text; insert into t values (3, 1, 's', 'm', 'b')`},
			[]string{`r created {"id":1,"body":"b"}`, `r created {"id":2}`, `r created {"id":3,"body":"b"}`}},
		{"dropped and added", `topic => 'r:{room}'`,
			[]string{`insert into t values (1, 1, 's', 'b'); alter table t drop room, drop body; insert into t values (2, 's'); delete from t`},
			[]string{`r:1 created {"id":1,"room":1,"secret":"s","body":"b"}`, `r:~null created {"id":2,"secret":"s"}`, `r:~null deleted old {"id":1}`, `r:~null deleted old {"id":2}`}},
		{"another type, dropped", `topic => 'r:{room}'`,
			[]string{`create type mood as enum ('ok'); alter table t alter body type mood using 'ok', add m mood[]; insert into t values (1, 1, 's', 'ok', '{ok}'); alter table t alter body type int using 5, drop m; drop type mood; insert into t values (2, 1, 's', 7)`},
			[]string{`r:1 created {"id":1,"room":1,"secret":"s","body":"ok","m":"{ok}"}`, `r:1 created {"id":2,"room":1,"secret":"s","body":7}`}},
	}
	w := newWAL(t)
	for _, look := range []string{"", "select pgcast.refresh()"} {
		for _, tt := range tests {
			t.Run(tt.name+" "+look, func(t *testing.T) {
				defer w.clear(t)
				w.db.Exec(t, table+`select pgcast.attach('t', `+tt.options+`, capture => 'wal')`)
				for _, sql := range tt.steps {
					w.db.Exec(t, sql)
				}
				if look != "" {
					w.db.Exec(t, look)
				}
				w.read(t)
				if diff := cmp.Diff(tt.want, w.events(t, "", true)); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			})
		}
	}
}

// What the topics are told of new columns, of a partition truncated by itself, of a reset.
func TestDecodedTold(t *testing.T) {
	t.Parallel()
	w := newWAL(t)
	w.db.Exec(t, `create table t (id int, room int, n numeric(9,2), secret text, primary key (id, room)) partition by list (room);
		create table t_1 partition of t for values in (1); create table t_2 partition of t for values in (2);
		select pgcast.attach('t', topic => 'r:{room}', without => '{secret}', capture => 'wal'); insert into t values (1, 1), (2, 2)`)
	w.read(t)
	rel := w.relation(t, "t_1")
	for _, sql := range []string{
		`select pgcast.schema_changed($2, $1::jsonb, now(), '5', 5, null, 1)`,
		`select pgcast.truncated($2, now(), '5', 5, null, 1) where $1 <> ''`,
		`select pgcast.tell_reset('t') where $1 <> '' and $2 > 0::oid`,
	} {
		if n := pgtest.Value[int](t, w.db, sql, columns(rel), rel.RelationID); n != 2 {
			t.Errorf("%s: told %d topics, want 2", sql, n)
		}
	}
	got := pgtest.Value[string](t, w.db, `select string_agg(concat_ws(' ', topic, event, data), e'\n' order by id) from pgcast.event_log where id > 4 or event <> 'created' and topic = 'r:1'`)
	want := `r:1 schema {"table" : "public.t", "columns" : [{"name" : "id", "type" : "integer"}, {"name" : "room", "type" : "integer"}, {"name" : "n", "type" : "numeric(9,2)"}]}
r:1 altered {"table" : "public.t"}
r:1 reset {"table" : "public.t"}`
	var lines []string
	for _, line := range strings.Split(got, "\n") {
		if strings.HasPrefix(line, "r:1 ") && !strings.HasPrefix(line, "r:1 created") {
			lines = append(lines, line)
		}
	}
	if diff := cmp.Diff(want, strings.Join(lines, "\n")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Partitions that are gone or stand alone by the time their rows are read.
func TestDecodedPartitionsGone(t *testing.T) {
	t.Parallel()
	w := newWAL(t)
	w.db.Exec(t, `create table t (id int, room int, primary key (id, room)) partition by list (room);
		create table t_1 partition of t for values in (1); create table t_2 partition of t for values in (2);
		select pgcast.attach('t', topic => 'r:{room}', capture => 'wal'); insert into t values (1, 1), (2, 2);
		update t set room = 2 where id = 1; alter table t detach partition t_1;
		create table t_3 partition of t for values in (3); insert into t values (4, 3); drop table t_2; insert into t_3 values (5, 3)`)
	if pgtest.Binaries(t).Version > 14 { // which sends these too, until the stream begins anew
		w.db.Exec(t, `insert into t_1 values (3, 1)`)
	}
	w.read(t)
	want := []string{`r:1 created {"id":1,"room":1}`, `r:2 created {"id":2,"room":2}`, `r:1 deleted old {"id":1,"room":1}`, `r:2 created {"id":1,"room":2}`,
		`r:3 created {"id":4,"room":3}`, `r:3 created {"id":5,"room":3}`}
	if diff := cmp.Diff(want, w.events(t, "", true)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Where a table captured from the WAL is not captured as it should be, that is told with what
// mends it; and no write fails meanwhile.
func TestFollowedDrift(t *testing.T) {
	t.Parallel()
	w := newWAL(t)
	conn := w.db.Conn(t)
	w.db.Exec(t, `create table t (id int primary key, room int, body text); alter table t replica identity full; select pgcast.attach('t', topic => 'r', old => true, capture => 'wal')`)
	drift := func() string {
		return pgtest.Value[string](t, w.db, `select coalesce(string_agg(problem || ' MEND ' || mend, e'\n'), '') from pgcast.drift()`)
	}
	state := func() string { return pgtest.Value[string](t, w.db, `select pgcast.watch_state()`) }
	if got := drift(); got != "" {
		t.Fatalf("drift of a new attachment: %s", got)
	}
	const again = `select pgcast.attach('t', topic => 'r', old => 'true', capture => 'wal')`
	tests := []struct{ sql, problem, mend, back string }{
		{`alter publication pgcast_capture drop table t`, "not in publication pgcast_capture", "capture => 'wal'", again},
		{`drop publication pgcast_capture`, "publication pgcast_capture is gone", "capture => 'wal'", again},
		{`alter publication pgcast_capture set (publish = 'insert')`, "has been altered", "set (publish", ""},
		{`alter table t replica identity default`, "leaves out old values", "alter table public.t replica identity full;", ""},
		{`alter table t set unlogged`, "is unlogged", "set logged", again},
		{`select pg_drop_replication_slot(pgcast.slot_name())`, "is gone; nothing is captured", "open_slot()", `select pgcast.open_slot()`},
	}
	for _, tt := range tests {
		before := state()
		if _, err := conn.Exec(t.Context(), tt.sql); err != nil {
			var pg *pgconn.PgError
			if errors.As(err, &pg) && strings.Contains(tt.sql, "unlogged") {
				continue // newer versions do not let a published table become unlogged
			}
			t.Fatal(err)
		}
		got := drift()
		if !strings.Contains(got, tt.problem) || !strings.Contains(got, tt.mend) {
			t.Errorf("after %s: drift %q, want %q mended by %q", tt.sql, got, tt.problem, tt.mend)
		}
		if state() == before {
			t.Errorf("%s does not change watch_state()", tt.sql)
		}
		if tt.back == "" {
			_, tt.back, _ = strings.Cut(got, "MEND ")
		}
		if _, err := conn.Exec(t.Context(), tt.back); err != nil {
			t.Fatalf("mend of %s: %s: %v", tt.sql, tt.back, err)
		}
		if got := drift(); got != "" {
			t.Fatalf("after %s and %s: drift %s", tt.sql, tt.back, got)
		}
	}
	// Postgres refuses updates of a published table without a key.
	w.db.Exec(t, `insert into t values (1); alter table t replica identity default; alter table t drop constraint t_pkey`)
	if _, err := conn.Exec(t.Context(), `update t set room = 1`); err == nil {
		t.Error("the update was not refused: this tests nothing")
	}
	w.db.Exec(t, `select pgcast.watch()`)
	if _, err := conn.Exec(t.Context(), `update t set room = 1; delete from t`); err != nil {
		t.Errorf("a write fails because of us: %v", err)
	}
	if n := pgtest.Value[int](t, w.db, `select count(*) from pgcast.event_log where event = 'degraded'`); n != 1 {
		t.Errorf("%d topics were told degraded", n)
	}
	w.db.Exec(t, `create table p (id int primary key) partition by list (id); create table p_1 partition of p for values in (1);
		select pgcast.attach('p', capture => 'wal'); create table p_2 (id int not null); alter table p_2 replica identity nothing;
		alter table p attach partition p_2 for values in (2); insert into p values (2); select pgcast.watch()`)
	if _, err := conn.Exec(t.Context(), `update p_2 set id = id; delete from p`); err != nil {
		t.Errorf("a write to a new partition fails because of us: %v", err)
	}
	if got := drift(); !strings.Contains(got, "public.p_2 has no REPLICA IDENTITY") {
		t.Errorf("drift: %s", got)
	}
	w.db.Exec(t, `select pgcast.detach('p')`)
	got := drift()
	if !strings.Contains(got, "REPLICA IDENTITY") || !strings.Contains(got, "alter table public.t replica identity full") {
		t.Errorf("drift: %s", got)
	}
	w.db.Exec(t, `alter table t replica identity full; `+again+`; select pgcast.watch(); drop table t; select pgcast.watch()`)
	if got := pgtest.Value[string](t, w.db, `select string_agg(event, ',' order by id) from pgcast.event_log`); !strings.HasSuffix(got, "recovered,gone") {
		t.Errorf("told %s", got)
	}
	if n := pgtest.Value[int](t, w.db, `select count(*) from pgcast.attachment`); n != 0 {
		t.Error("a dropped table is still attached")
	}
}

// After a restore columns have other numbers; what they were elsewhere must not hide others.
func TestDecodedRestored(t *testing.T) {
	t.Parallel()
	for _, look := range []string{"select pgcast.refresh()", "select pgcast.attach('t', topic => 'r', without => '{secret}', capture => 'wal')"} {
		w := newWAL(t)
		w.db.Exec(t, `create table t (id int primary key, junk int, secret text, body text); alter table t drop junk;
			select pgcast.attach('t', topic => 'r', without => '{secret}', capture => 'wal'); select pgcast.unfollow_table('t');
			drop table t; create table t (id int primary key, secret text, body text);
			update pgcast.attachment set relation = 't'::regclass, stamp = 'elsewhere'; select pgcast.follow_table('t')`)
		w.db.Exec(t, look)
		w.db.Exec(t, `select pgcast.refresh(); insert into t values (1, 's', 'b')`)
		w.read(t)
		if diff := cmp.Diff([]string{`r created {"id":1,"body":"b"}`}, w.events(t, "", true)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", look, diff)
		}
	}
}
