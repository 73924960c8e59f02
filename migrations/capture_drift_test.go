package migrations_test

import (
	"context"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast/internal/pgtest"
)

// Every kind of drift is named, and what drift() says mends it does.
func TestDrift(t *testing.T) {
	t.Parallel()
	const again = `select pgcast.attach('public.p', topic => 'k:{k}', without => '{body}', old => true, numbers => 'text')`
	tests := []struct {
		name, sql string
		want      []string // relation: problem: mend, ... for any text
	}{
		{"a new partition", `create table p5 partition of p for values in (5) partition by list (k); create table p55 partition of p5 for values in (5)`, []string{
			"public.p5: what is written straight into it is not captured: no trigger for insert, update, delete, truncate: " + again,
			"public.p55: what is written straight into it is not captured: no trigger for insert, update, delete, truncate: " + again,
		}},
		{"a dropped trigger", `drop trigger "00_pgcast_update" on p`, []string{"public.p: not captured: no trigger for update: " + again}},
		{"a disabled trigger", `alter table p1 disable trigger "00_pgcast_insert"`, []string{
			`public.p1: trigger "00_pgcast_insert" is disabled: alter table public.p1 enable always trigger "00_pgcast_insert"`,
		}},
		{"pg_restore --disable-triggers", `alter table messages disable trigger all; alter table messages enable trigger all`, []string{
			`public.messages: trigger "00_pgcast_delete" does not fire with session_replication_role = replica: alter table public.messages enable always trigger "00_pgcast_delete"`,
			`public.messages: trigger "00_pgcast_insert" does not fire with session_replication_role = replica: alter table public.messages enable always trigger "00_pgcast_insert"`,
			`public.messages: trigger "00_pgcast_truncate" does not fire with session_replication_role = replica: alter table public.messages enable always trigger "00_pgcast_truncate"`,
			`public.messages: trigger "00_pgcast_update" does not fire with session_replication_role = replica: alter table public.messages enable always trigger "00_pgcast_update"`,
		}},
		{"a detached partition", `alter table p detach partition p1`, []string{"public.p1: it belonged to public.p once, and still has its triggers; they do nothing: " + again}},
		{"attached by itself before", `create table p6 (id int, k int not null, body text, primary key (id, k)); select pgcast.attach('p6'); alter table p attach partition p6 for values in (6)`, []string{
			"public.p6: it is attached by itself, and belongs to public.p, which is attached: select pgcast.detach('public.p6'); " + again,
		}},
		{"an altered table", `alter table messages rename body to text`, []string{
			"public.messages: the table has changed since its capture function was made; role postgres can make it anew: select pgcast.refresh()",
		}},
		{"row triggers since", `create function f() returns trigger language plpgsql as 'begin return null; end'; create trigger x after update on messages for each row execute function f()`, []string{
			"public.messages: it has row triggers since it was attached; what they write may come before what they were triggered by: select pgcast.attach('public.messages', topic => 'messages')",
		}},
		{"the function is gone", `do $$ begin execute (select format('drop function pgcast.%I cascade', capture) from pgcast.attachment where relation = 'messages'::regclass); end $$`, []string{
			"public.messages: its capture function is gone; nothing is captured: select pgcast.attach('public.messages', topic => 'messages')",
		}},
		{"a dropped table", `drop table messages`, []string{"…: the table was dropped; its topic was messages: select pgcast.refresh()"}},
		{"a dropped tree", `drop schema public cascade; create schema public`, []string{
			"…: the table was dropped; its topic was messages: select pgcast.refresh()", "…: the table was dropped; its topic was k:{k}: select pgcast.refresh()",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			conn := pgtest.New(t, nil).Conn(t)
			exec := func(sql string) {
				t.Helper()
				if _, err := conn.Exec(t.Context(), sql); err != nil {
					t.Fatalf("%s: %v", sql, err)
				}
			}
			drift := func() (list []string) {
				t.Helper()
				var relation, problem, mend string
				rows, _ := conn.Query(t.Context(), `select case when relation ~ '^[0-9]+$' then '…' else relation end, problem, mend from pgcast.drift()`)
				if _, err := pgx.ForEachRow(rows, []any{&relation, &problem, &mend}, func() error {
					list = append(list, relation+": "+problem+": "+mend)
					return nil
				}); err != nil {
					t.Fatal(err)
				}
				return list
			}
			exec(messages + partitioned + `select pgcast.attach('messages'), pgcast.attach('p', topic => 'k:{k}', without => '{body}', old => true, numbers => 'text')`)
			if list := drift(); list != nil {
				t.Fatalf("drift when freshly attached: %q", list)
			}
			state := func() (s string) {
				t.Helper()
				if err := conn.QueryRow(t.Context(), `select pgcast.watch_state()`).Scan(&s); err != nil {
					t.Fatal(err)
				}
				return s
			}
			before := state()
			if again := state(); again != before {
				t.Errorf("the state is %s, then %s", before, again)
			}
			exec(tt.sql)
			if state() == before {
				t.Error("by the state nothing has changed")
			}
			list := drift()
			if diff := cmp.Diff(tt.want, list); diff != "" {
				t.Errorf("drift (-want +got):\n%s", diff)
			}
			for _, line := range list {
				exec(line[strings.LastIndex(line, ": ")+2:])
			}
			if list := drift(); list != nil {
				t.Errorf("drift when mended: %q", list)
			}
			exec(`do $$ begin assert pgcast.refresh() = 0; assert (select count(*) from pgcast.attachment) = (select count(*) from pg_proc where pronamespace = 'pgcast'::regnamespace and prorettype = 'trigger'::regtype and proname like 'capture%'); end $$`)
		})
	}
}

// A server whose role owns nothing but pgcast refreshes; it need not wait for an attach.
func TestRefreshIsPolite(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	db.Exec(t, messages+`select pgcast.attach('messages'); alter table messages rename body to text`)
	tx, err := db.Conn(t).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `create table other (id int); select pgcast.attach('other')`); err != nil {
		t.Fatal(err)
	}
	if n := pgtest.Value[int](t, db, `select pgcast.refresh()`); n != 0 {
		t.Errorf("refresh during an attach changed %d attachments", n)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := pgtest.Value[int](t, db, `select pgcast.refresh()`); n != 1 {
		t.Errorf("refresh changed %d attachments, want 1", n)
	}
}

// A dump restored into another database: no event by restoring, and capture goes on,
// although every oid, and the numbers of columns after a dropped one, are others.
func TestCaptureDump(t *testing.T) {
	t.Parallel()
	dump, err := exec.LookPath("pg_dump")
	if err != nil {
		t.Skipf("no pg_dump: %v", err)
	}
	psql, err := exec.LookPath("psql")
	if err != nil {
		t.Skipf("no psql: %v", err)
	}
	if version, err := exec.Command(dump, "--version").Output(); err != nil {
		t.Skipf("pg_dump --version: %v", err)
	} else if fields := strings.Fields(string(version)); !strings.HasPrefix(fields[2], strconv.Itoa(pgtest.Binaries(t).Version)) {
		t.Skipf("pg_dump is %s, the server %d", fields[2], pgtest.Binaries(t).Version)
	}
	from, to := pgtest.New(t, nil), pgtest.New(t, &pgtest.Options{Empty: true})
	from.Exec(t, partitioned+`create table "odd $$ 'table" (gone int, id int primary key, secret text, room text);
		alter table "odd $$ 'table" drop gone;
		select pgcast.attach('"odd $$ ''table"', topic => 'r:{room}', without => '{secret}'), pgcast.attach('p', topic => 'k:{k}');
		insert into "odd $$ 'table" values (1, 'canary', 'a'); insert into p values (1, 1, 'a'), (2, 2, 'b'), (3, 3, 'c')`)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out, in := exec.CommandContext(ctx, dump, "--dbname", from.URL), exec.CommandContext(ctx, psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", to.URL)
	pipe, write := io.Pipe()
	var problems strings.Builder
	out.Stdout, out.Stderr, in.Stdin, in.Stderr = write, &problems, pipe, &problems
	if err := in.Start(); err != nil {
		t.Fatal(err)
	}
	err = out.Run()
	write.Close()
	if err := in.Wait(); err != nil {
		t.Fatalf("restore: %v: %s", err, problems.String())
	}
	if err != nil {
		t.Fatalf("dump: %v: %s", err, problems.String())
	}
	conn := to.Conn(t)
	if n := len(take(t, conn)); n != 4 {
		t.Errorf("%d events after restore, want the 4 of the dump", n)
	}
	write2 := func(when, sql string, want ...string) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %s: %v", when, sql, err)
		}
		if diff := cmp.Diff(want, take(t, conn)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", when, diff)
		}
	}
	write2("restored", `insert into "odd $$ 'table" values (2, 'canary', 'b'); insert into p2 values ('x', 2, 5); delete from p where id = 1`,
		`r:b created {"id":2,"room":"b"}`, `k:2 created {"id":5,"k":2,"body":"x"}`, `k:1 deleted old {"id":1,"k":1}`)
	if _, err := conn.Exec(t.Context(), `alter table "odd $$ 'table" add later int`); err != nil {
		t.Fatal(err)
	}
	write2("altered", `insert into "odd $$ 'table" values (3, 'canary', 'b', 7)`, `r:b created {"id":3,"room":"b","later":7}`)
	if n := pgtest.Value[int](t, to, `select pgcast.refresh()`); n != 2 {
		t.Errorf("refresh changed %d attachments, want 2: the numbers of columns are others", n)
	}
	if n := pgtest.Value[int](t, to, `select count(*) from pgcast.drift()`); n != 0 {
		t.Errorf("%d kinds of drift after restore and refresh", n)
	}
	write2("refreshed", `alter table "odd $$ 'table" rename secret to hidden; insert into "odd $$ 'table" values (4, 'canary', 'b', 7); truncate p3`,
		`r:b created {"id":4,"room":"b","later":7}`, `k:3 deleted old {"id":3,"k":3}`)
}
