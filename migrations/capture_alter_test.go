package migrations_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgcast/pgcast/internal/pgtest"
)

// Tables change under their attachments. Each case writes right after the change, when
// the capture function is out of date, and again after refresh(): the events must be the
// same, and no write may fail.
func TestCaptureAlter(t *testing.T) {
	t.Parallel()
	const table = `create table t (id int primary key, room text, secret text, n int);`
	tests := []struct {
		name, options, alter, write string
		want                        []string
	}{
		{"add a column", `topic => 'r:{room}'`, `alter table t add c int default 5`, `insert into t values (1, 'a', 's', 1)`,
			[]string{`r:a created {"id":1,"room":"a","secret":"s","n":1,"c":5}`}},
		{"drop a column", `topic => 'r:{room}'`, `alter table t drop n`, `insert into t values (1, 'a', 's')`,
			[]string{`r:a created {"id":1,"room":"a","secret":"s"}`}},
		{"rename the topic's column", `topic => 'r:{room}'`, `alter table t rename room to chat`, `insert into t values (1, 'a', 's', 1); update t set chat = 'b'`,
			[]string{`r:a created {"id":1,"chat":"a","secret":"s","n":1}`, `r:a deleted old {"id":1}`, `r:b created {"id":1,"chat":"b","secret":"s","n":1}`}},
		{"swap names", `topic => 'r:{room}', without => '{secret}'`, `alter table t rename room to x; alter table t rename n to room; alter table t rename x to n`,
			`insert into t values (1, 'a', 's', 1)`, []string{`r:a created {"id":1,"n":"a","room":1}`}},
		{"drop the topic's column", `topic => 'r:{room}:{n}'`, `alter table t drop room`, `insert into t values (1, 's', 1); update t set n = null`,
			[]string{`r:~null:1 created {"id":1,"secret":"s","n":1}`, `r:~null:1 deleted old {"id":1}`, `r:~null:~null created {"id":1,"secret":"s","n":null}`}},
		{"another type", `topic => 'r:{n}'`, `alter table t alter n type text using '* ' || n`, `insert into t values (1, 'a', 's', '* 5')`,
			[]string{`r:%2A%205 created {"id":1,"room":"a","secret":"s","n":"* 5"}`}},
		{"rename the key", `topic => 'r'`, `alter table t rename id to key`, `insert into t values (1, 'a', 's', 1); update t set n = 2; delete from t`,
			[]string{`r created {"key":1,"room":"a","secret":"s","n":1}`, `r updated {"key":1,"room":"a","secret":"s","n":2} old {"key":1}`, `r deleted old {"key":1}`}},
		{"drop the key", `topic => 'r'`, `alter table t drop id`, `insert into t values ('a', 's', 1); delete from t`,
			[]string{`r created {"room":"a","secret":"s","n":1}`, `r deleted old {"room":"a","secret":"s","n":1}`}},
		{"another key", `topic => 'r', old => true`, `alter table t drop constraint t_pkey; alter table t add primary key (n)`, `insert into t values (1, 'a', 's', 1); delete from t`,
			[]string{`r created {"id":1,"room":"a","secret":"s","n":1}`, `r deleted old {"id":1,"room":"a","secret":"s","n":1}`}},
		{"a renamed secret", `topic => 'r', without => '{secret}'`, `alter table t rename secret to hidden; alter table t add c int`, `insert into t values (1, 'a', 'canary', 1, 5)`,
			[]string{`r created {"id":1,"room":"a","n":1,"c":5}`}},
		{"a new column by a secret's name", `topic => 'r', without => '{secret}'`, `alter table t rename secret to hidden; alter table t add secret text`,
			`insert into t values (1, 'a', 'canary', 1, 'canary')`, []string{`r created {"id":1,"room":"a","n":1}`}},
		{"a dropped secret comes back", `topic => 'r', without => '{secret}'`, `alter table t drop secret; alter table t add secret text`,
			`insert into t values (1, 'a', 1, 'canary')`, []string{`r created {"id":1,"room":"a","n":1}`}},
		{"renamed in an allow-list", `topic => 'r', columns => '{id,room}'`, `alter table t rename room to chat; alter table t add c int`,
			`insert into t values (1, 'a', 'canary', 1, 5)`, []string{`r created {"id":1,"chat":"a"}`}},
		{"a new column by a listed name", `topic => 'r', columns => '{id,room}'`, `alter table t rename room to chat; alter table t rename secret to room`,
			`insert into t values (1, 'a', 'canary', 1)`, []string{`r created {"id":1,"chat":"a"}`}},
		{"all that was listed is gone", `topic => 'r', columns => '{id,room}'`, `alter table t drop id, drop room`, `insert into t values ('s', 1); update t set n = 2; delete from t`,
			[]string{`r created {}`, `r updated {} old {}`, `r deleted old {}`}},
		{"numbers", `topic => 'r', numbers => 'text'`, `alter table t add b int8 default 7, add l int8[] default '{1}'`, `insert into t values (1, 'a', 's', 1)`,
			[]string{`r created {"id":1,"room":"a","secret":"s","n":1,"b":"7","l":["1"]}`}},
		{"rewritten", `topic => 'r:{room}'`, `vacuum full t`, `insert into t values (1, 'a', 's', 1)`, []string{`r:a created {"id":1,"room":"a","secret":"s","n":1}`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			conn := pgtest.New(t, nil).Conn(t)
			exec := func(sql string) []string {
				t.Helper()
				if _, err := conn.Exec(t.Context(), sql); err != nil {
					t.Fatalf("%s: %v", sql, err)
				}
				return take(t, conn)
			}
			exec(table + `select pgcast.attach('t', ` + tt.options + `)`)
			exec(`insert into t values (0, 'a', 's', 1); update t set n = 2; delete from t`) // plans are made and kept
			exec(tt.alter)
			if diff := cmp.Diff(tt.want, exec(tt.write)); diff != "" {
				t.Errorf("before refresh (-want +got):\n%s", diff)
			}
			exec(`set pgcast.capture = off; delete from t; reset pgcast.capture; select pgcast.refresh()`)
			if diff := cmp.Diff(tt.want, exec(tt.write)); diff != "" {
				t.Errorf("after refresh (-want +got):\n%s", diff)
			}
			exec(`do $$ begin assert pgcast.refresh() = 0; assert not exists (select from pgcast.drift()); end $$`)
		})
	}
}

// The expression by which capture knows its table says yes for whatever table stands as it was
// attached, else each write to it pays for a closer look. It says no after a change.
func TestCaptureKnowsItsTable(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	db.Exec(t, `create type mood as enum ('ok'); create domain d as int not null; create schema "we ird"`)
	wide := "c0 int"
	for i := range 1000 {
		wide += fmt.Sprintf(", c%d int", i+1)
	}
	for i, table := range []struct{ name, columns string }{
		{`plain`, `a int, b text`},
		{`wide`, wide},
		{`"we ird"."T"`, `"A b" int, "q'x" text, "%I" uuid, "ü" json`},
		{`typed`, `a int[], b mood, c d, e timestamptz, f float8 generated always as (1) stored`},
	} {
		db.Exec(t, `create table `+table.name+` (`+table.columns+`); select pgcast.attach('`+table.name+`', topic => 't')`)
		expression := pgtest.Value[string](t, db, `select substring(p.prosrc from 'pgcast\.has_layout\([^;]*?\)(?= then\n)') from pg_trigger t join pg_proc p on p.oid = t.tgfoid
			where t.tgrelid = $1::text::regclass limit 1`, table.name)
		if !pgtest.Value[bool](t, db, `select `+expression) {
			t.Errorf("%s is not known as it was attached", table.name)
		}
		db.Exec(t, `alter table `+table.name+` add later`+fmt.Sprint(i)+` int`)
		if pgtest.Value[bool](t, db, `select `+expression) {
			t.Errorf("%s is known as it was attached, though it was altered", table.name)
		}
	}
}

// A table may have no columns, from the start or for a while.
func TestCaptureNoColumns(t *testing.T) {
	t.Parallel()
	const settled = `do $$ begin perform pgcast.refresh(); assert pgcast.refresh() = 0; assert not exists (select from pgcast.drift()); end $$`
	run(t, nil, []step{
		{sql: `create table t (a int); create table bare (); select pgcast.attach('bare'), pgcast.attach('t', topic => 'r:{a}', without => '{a}')`},
		{`insert into bare default values; delete from bare; truncate bare`, []string{
			`bare created {}`, `bare deleted old {}`, `bare truncated {"schema":"public","table":"bare"}`,
		}},
		{`alter table t drop a; insert into t default values`, []string{`r:~null created {}`}},
		{sql: settled},
		{`insert into t default values; delete from t`, []string{`r:~null created {}`, `r:~null deleted old {}`, `r:~null deleted old {}`}},
		{`alter table t add a int, add b int; insert into t values (1, 2)`, []string{`r:1 created {"b":2}`}},
		{sql: settled},
		{`insert into t values (3, 4)`, []string{`r:3 created {"b":4}`}},
	})
}

// A transaction whose snapshot is older than the change still writes by today's names.
func TestCaptureAlterUnderOldSnapshot(t *testing.T) {
	t.Parallel()
	for _, level := range []string{"repeatable read", "serializable"} {
		t.Run(level, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t, nil)
			db.Exec(t, `create table t (id int primary key, room text, secret text); create table other (id int); create table typed (n int);
				select pgcast.attach('t', topic => 'r:{room}', without => '{secret}'), pgcast.attach('typed', topic => 'n:{n}')`)
			old := db.Conn(t)
			exec := func(sql string) {
				t.Helper()
				if _, err := old.Exec(t.Context(), sql); err != nil {
					t.Fatalf("%s: %v", sql, err)
				}
			}
			exec(`insert into t values (0, 'a', 's'); insert into typed values (1)`)
			exec(`begin isolation level ` + level)
			exec(`select * from other`)
			take(t, old)
			db.Exec(t, `alter table t rename room to chat; alter table t rename secret to hidden; alter table t add later int default 3;
				alter table typed alter n type text using n || ' *'`)
			exec(`insert into t values (1, 'b', 'canary')`)
			exec(`update t set chat = 'c' where id = 1`)
			exec(`delete from t where id = 1`)
			want := []string{
				`r:b created {"id":1,"chat":"b","later":3}`, `r:b deleted old {"id":1}`,
				`r:c created {"id":1,"chat":"c","later":3}`, `r:c deleted old {"id":1}`,
			}
			if diff := cmp.Diff(want, take(t, old)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			exec(`insert into typed values ('a b'), (null)`)
			if diff := cmp.Diff([]string{`n:a%20b created {"n":"a b"}`, `n:~null created {"n":null}`}, take(t, old)); diff != "" {
				t.Errorf("of another type (-want +got):\n%s", diff)
			}
			db.Exec(t, `select pgcast.refresh()`)
			exec(`insert into t values (2, 'd', 'canary')`)
			if diff := cmp.Diff([]string{`r:d created {"id":2,"chat":"d","later":3}`}, take(t, old)); diff != "" {
				t.Errorf("after refresh (-want +got):\n%s", diff)
			}
			exec(`commit`)
		})
	}
}
