package migrations_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcast/pgcast/internal/pgtest"
)

func TestCaptureStatements(t *testing.T) {
	t.Parallel()
	run(t, nil, []step{
		{sql: messages + `create table reads (message_id int references messages on delete cascade on update cascade, who text, primary key (message_id, who));
			select pgcast.attach('messages', topic => 'room:{room_id}'), pgcast.attach('reads', topic => 'reads:{message_id}')`},
		{`insert into messages values (1, 1, 'a'), (2, 1, 'b') on conflict do nothing; insert into messages values (1, 1, 'z'), (3, 1, 'c') on conflict do nothing`, []string{
			`room:1 created {"id":1,"room_id":1,"body":"a"}`, `room:1 created {"id":2,"room_id":1,"body":"b"}`, `room:1 created {"id":3,"room_id":1,"body":"c"}`,
		}},
		{`insert into messages values (1, 2, 'u'), (4, 1, 'd') on conflict (id) do update set room_id = excluded.room_id, body = excluded.body`, []string{
			`room:1 deleted old {"id":1}`, `room:2 created {"id":1,"room_id":2,"body":"u"}`, `room:1 created {"id":4,"room_id":1,"body":"d"}`,
		}},
		{`insert into reads values (1, 'ann'), (1, 'bob'), (2, 'ann')`, []string{
			`reads:1 created {"message_id":1,"who":"ann"}`, `reads:1 created {"message_id":1,"who":"bob"}`, `reads:2 created {"message_id":2,"who":"ann"}`,
		}},
		{`update messages set id = 10 where id = 1`, []string{
			`room:2 updated {"id":10,"room_id":2,"body":"u"} old {"id":1}`,
			`reads:1 deleted old {"message_id":1,"who":"ann"}`, `reads:10 created {"message_id":10,"who":"ann"}`,
			`reads:1 deleted old {"message_id":1,"who":"bob"}`, `reads:10 created {"message_id":10,"who":"bob"}`,
		}},
		{`delete from messages where id in (2, 10)`, []string{
			`room:1 deleted old {"id":2}`, `room:2 deleted old {"id":10}`,
			`reads:2 deleted old {"message_id":2,"who":"ann"}`, `reads:10 deleted old {"message_id":10,"who":"ann"}`, `reads:10 deleted old {"message_id":10,"who":"bob"}`,
		}},
		{`with gone as (delete from messages where id = 3 returning *), moved as (insert into messages select 30, 3, body from gone returning id) update messages set body = 'w' where id = 4`, []string{
			`room:1 updated {"id":4,"room_id":1,"body":"w"} old {"id":4}`, `room:1 deleted old {"id":3}`, `room:3 created {"id":30,"room_id":3,"body":"c"}`,
		}},
		{`truncate messages cascade`, []string{
			`room:1 truncated {"schema":"public","table":"messages"}`, `room:2 truncated {"schema":"public","table":"messages"}`, `room:3 truncated {"schema":"public","table":"messages"}`,
			`reads:1 truncated {"schema":"public","table":"reads"}`, `reads:10 truncated {"schema":"public","table":"reads"}`, `reads:2 truncated {"schema":"public","table":"reads"}`,
		}},
		{`begin; insert into messages values (1, 1, ''); savepoint a; insert into messages values (2, 1, ''); savepoint b; insert into messages values (3, 1, '');
		  rollback to b; insert into messages values (4, 1, ''); release a; savepoint c; delete from messages; rollback to c; commit`, []string{
			`room:1 created {"id":1,"room_id":1,"body":""}`, `room:1 created {"id":2,"room_id":1,"body":""}`, `room:1 created {"id":4,"room_id":1,"body":""}`,
		}},
		{`begin; delete from messages; truncate messages cascade; rollback`, nil},
		{`set session_replication_role = replica; delete from messages where id = 1; reset session_replication_role`, []string{`room:1 deleted old {"id":1}`}},
		{`set enable_hashjoin = off; set enable_mergejoin = off; set enable_nestloop = off; set jit_above_cost = 0; update messages set body = 'x'`, []string{
			`room:1 updated {"id":2,"room_id":1,"body":"x"} old {"id":2}`, `room:1 updated {"id":4,"room_id":1,"body":"x"} old {"id":4}`,
		}},
	})
}

func TestCaptureMerge(t *testing.T) {
	t.Parallel()
	if pgtest.Binaries(t).Version < 15 {
		t.Skip("MERGE came with PostgreSQL 15")
	}
	run(t, nil, []step{
		{sql: messages + `select pgcast.attach('messages'); set pgcast.capture = off; insert into messages select i, 1, '' from generate_series(1, 3) i; reset pgcast.capture`},
		{`merge into messages m using (values (1, 'u'), (2, 'd'), (9, 'i')) v (id, what) on m.id = v.id
			when matched and what = 'u' then update set body = what when matched then delete when not matched then insert values (v.id, 2, what)`, []string{
			`messages deleted old {"id":2}`, `messages updated {"id":1,"room_id":1,"body":"u"} old {"id":1}`, `messages created {"id":9,"room_id":2,"body":"i"}`,
		}},
	})
}

func TestCaptureCopyAndBulk(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t, nil).Conn(t)
	if _, err := conn.Exec(t.Context(), messages+`select pgcast.attach('messages', topic => 'room:{room_id}')`); err != nil {
		t.Fatal(err)
	}
	rows := [][]any{{1, 1, "a"}, {2, 2, nil}}
	if _, err := conn.CopyFrom(t.Context(), pgx.Identifier{"messages"}, []string{"id", "room_id", "body"}, pgx.CopyFromRows(rows)); err != nil {
		t.Fatal(err)
	}
	want := []string{`room:1 created {"id":1,"room_id":1,"body":"a"}`, `room:2 created {"id":2,"room_id":2,"body":null}`}
	if diff := cmp.Diff(want, take(t, conn)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// Rows in their order, pairs of old and new, also when they do not fit into memory.
	_, err := conn.Exec(t.Context(), `set work_mem = '64kB'; truncate messages; truncate pgcast.event_log;
		insert into messages select i, i % 7, md5(i::text) from generate_series(1, 20000) i;
		update messages set id = -id, room_id = room_id + id % 2;
		do $$ begin
			assert (select count(*) = 20000 and bool_and((data->>'id')::int = place) from (select data, row_number() over (order by id) as place from pgcast.event_log where event = 'created') e where place <= 20000);
			assert (select count(*) = 20000 and bool_and((e.old->>'id')::int = -(e.data->>'id')::int) from (
				select case event when 'updated' then data else lead(data) over (order by id) end as data, old, event from pgcast.event_log where id > (select min(id) + 19999 from pgcast.event_log)) e where event <> 'created');
		end $$`)
	if err != nil {
		t.Error(err)
	}
}

// What a table's own row triggers write comes after what triggered them.
func TestCaptureNestedWrites(t *testing.T) {
	t.Parallel()
	run(t, nil, []step{
		{sql: `create table t (id int primary key, n int, up int references t on delete cascade);
			create function again() returns trigger language plpgsql as $$ begin
				if new.n < 3 then update t set n = n + 1 where id = new.id; end if;
				if tg_op = 'INSERT' and new.id < 100 then insert into t values (new.id + 100, 9, new.id); end if;
				return null;
			end $$;
			create trigger again after insert or update on t for each row execute function again();
			create function total() returns trigger language plpgsql as $$ begin perform pgcast.publish('total', tg_op); return null; end $$;
			create trigger "0 total" after insert or update or delete on t for each statement execute function total();
			select pgcast.attach('t')`},
		{`insert into t values (1, 1), (2, 5)`, []string{
			`t created {"id":1,"n":1,"up":null}`, `t created {"id":2,"n":5,"up":null}`,
			`t updated {"id":1,"n":2,"up":null} old {"id":1}`, `t updated {"id":1,"n":3,"up":null} old {"id":1}`, `total UPDATE`, `total UPDATE`,
			`t created {"id":101,"n":9,"up":1}`, `total INSERT`, `t created {"id":102,"n":9,"up":2}`, `total INSERT`, `total INSERT`,
		}},
		{`insert into t values (2, 0), (3, 9) on conflict (id) do update set n = 1`, []string{
			`t updated {"id":2,"n":1,"up":null} old {"id":2}`, `t updated {"id":2,"n":2,"up":null} old {"id":2}`, `t updated {"id":2,"n":3,"up":null} old {"id":2}`, `total UPDATE`, `total UPDATE`,
			`t created {"id":3,"n":9,"up":null}`, `t created {"id":103,"n":9,"up":3}`, `total INSERT`, `total UPDATE`, `total INSERT`,
		}},
		{`begin; savepoint a; update t set n = 1 where id = 3; rollback to a; update t set n = 2 where id = 3; set local pgcast.capture = off; update t set n = 0 where id = 3; commit`, []string{
			`t updated {"id":3,"n":2,"up":null} old {"id":3}`, `t updated {"id":3,"n":3,"up":null} old {"id":3}`, `total UPDATE`, `total UPDATE`,
			`total UPDATE`, `total UPDATE`, `total UPDATE`, `total UPDATE`,
		}},
		{`delete from t`, []string{
			`t deleted old {"id":1}`, `t deleted old {"id":101}`, `t deleted old {"id":102}`, `t deleted old {"id":2}`, `t deleted old {"id":103}`, `t deleted old {"id":3}`, `total DELETE`, `total DELETE`,
		}},
		// Without row triggers of its own the table needs none of ours.
		{sql: `drop trigger again on t; drop trigger "0 total" on t; select pgcast.attach('t'); do $$ begin assert not exists (select from pg_trigger where tgname like '%\_row'); end $$`},
		{`insert into t values (1, 1)`, []string{`t created {"id":1,"n":1,"up":null}`}},
	})
}

// A writer with no rights at all in schema pgcast, and no search_path.
func TestCaptureUnprivilegedWriter(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	conn := db.Conn(t)
	role := pgx.Identifier{db.Name}.Sanitize()
	db.Exec(t, messages+`create role `+role+`; grant select, insert, update, delete, truncate on messages to `+role+`;
		alter table messages enable row level security; create policy own on messages using (room_id = 1) with check (room_id = 1);
		select pgcast.attach('messages', topic => 'room:{body}')`)
	_, err := conn.Exec(t.Context(), `set role `+role+`; set search_path = ''; set statement_timeout = '10s'; set idle_in_transaction_session_timeout = '5s';
		insert into public.messages values (1, 1, 'é'); update public.messages set body = 'f'; delete from public.messages; truncate public.messages; reset role; reset search_path`)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`room:%C3%A9 created {"id":1,"room_id":1,"body":"é"}`, `room:%C3%A9 deleted old {"id":1}`, `room:f created {"id":1,"room_id":1,"body":"f"}`, `room:f deleted old {"id":1}`,
		`room:%C3%A9 truncated {"schema":"public","table":"messages"}`, `room:f truncated {"schema":"public","table":"messages"}`,
	}
	if diff := cmp.Diff(want, take(t, conn)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, sql := range []string{`select * from pgcast.event_log`, `select pgcast.publish('a', 'b')`, `create trigger x after insert on public.messages for each row execute function pgcast.ring()`} {
		_, err := conn.Exec(t.Context(), `set role `+role+`; `+sql)
		if pg := (*pgconn.PgError)(nil); !errors.As(err, &pg) || pg.Code != "42501" {
			t.Errorf("%s: got %v, want permission denied", sql, err)
		}
	}
	db.Exec(t, `drop owned by `+role+`; drop role `+role)
}

func TestCapturePreparedTransaction(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, &pgtest.Options{Kind: pgtest.TwoPhase})
	db.Exec(t, messages+partitioned+`select pgcast.attach('messages', topic => 'room:{room_id}'), pgcast.attach('p')`)
	conn := db.Conn(t)
	for _, end := range []string{"rollback", "commit"} {
		_, err := conn.Exec(t.Context(), fmt.Sprintf(`begin; insert into messages values (1, 1, ''); update messages set room_id = 2; insert into p2 values ('', 2, 1); truncate p2; truncate messages; truncate p;
			prepare transaction '%s'`, db.Name))
		if err != nil {
			t.Fatal(err)
		}
		if got := take(t, conn); got != nil {
			t.Errorf("seen before %s prepared: %q", end, got)
		}
		if _, err := conn.Exec(t.Context(), fmt.Sprintf(`%s prepared '%s'`, end, db.Name)); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{
		`room:1 created {"id":1,"room_id":1,"body":""}`, `room:1 deleted old {"id":1}`, `room:2 created {"id":1,"room_id":2,"body":""}`,
		`p created {"id":1,"k":2,"body":""}`, `p deleted old {"id":1,"k":2}`,
		`room:1 truncated {"schema":"public","table":"messages"}`, `room:2 truncated {"schema":"public","table":"messages"}`, `p truncated {"schema":"public","table":"p"}`,
	}
	if diff := cmp.Diff(want, take(t, conn)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Open transactions that wrote to the same topics, in every order, hold nobody up.
func TestCaptureOpenTransactions(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	db.Exec(t, `create table m (id bigint generated always as identity primary key, room int, body text); select pgcast.attach('m', topic => 'room:{room}')`)
	conns := make([]*pgx.Conn, 8)
	exec := func(i int, sql string, args ...any) {
		t.Helper()
		if _, err := conns[i].Exec(t.Context(), sql, args...); err != nil {
			t.Fatalf("writer %d: %s: %v", i, sql, err)
		}
	}
	for i := range conns {
		conns[i] = db.Conn(t)
		exec(i, `set lock_timeout = '10ms'`)
		exec(i, `begin isolation level `+[]string{"read committed", "repeatable read", "serializable"}[i%3])
	}
	for round := range 3 {
		for i := range conns {
			exec(i, `insert into m (room) values ($1)`, (round+i)%3)
		}
	}
	for i := range conns {
		exec(i, `commit`)
	}
	if n := pgtest.Value[int](t, db, `select count(*) from pgcast.event_log`); n != 24 {
		t.Errorf("%d events, want 24", n)
	}
}

// Whatever capture has to wait for, the writer's lock_timeout is not for it.
func TestCaptureIgnoresLockTimeout(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, held, sql string }{
		{"publish", `lock table pgcast.event_log in share mode`, `select pgcast.publish('room:1', 'e')`},
		{"publish with a key", `lock table pgcast.publish_key in share mode`, `select pgcast.publish('room:1', 'e', key => 'k')`},
		{"publish with a key in use", `select pgcast.publish('room:1', 'e', key => 'k')`, `select pgcast.publish('room:1', 'e', key => 'k')`},
		{"a trigger", `lock table pgcast.event_log in share mode`, `insert into m (room) values (1)`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t, nil)
			db.Exec(t, `create table m (id bigint generated always as identity primary key, room int); select pgcast.attach('m', topic => 'room:{room}')`)
			holder, writer := db.Conn(t), db.Conn(t)
			if _, err := writer.Exec(t.Context(), `set lock_timeout = '10ms'`); err != nil {
				t.Fatal(err)
			}
			if _, err := holder.Exec(t.Context(), `begin; `+c.held); err != nil {
				t.Fatal(err)
			}
			wrote := make(chan error, 1)
			go func() {
				_, err := writer.Exec(t.Context(), c.sql)
				wrote <- err
			}()
			for waits, end := false, time.Now().Add(30*time.Second); !waits; {
				select {
				case err := <-wrote:
					t.Fatalf("did not wait: %v", err)
				case <-time.After(10 * time.Millisecond):
				}
				waits = pgtest.Value[bool](t, db, `select exists (select from pg_stat_activity
					where pid = $1 and wait_event_type = 'Lock' and query_start < clock_timestamp() - interval '100 ms')`, writer.PgConn().PID())
				if time.Now().After(end) {
					t.Fatal("it never waits for the lock")
				}
			}
			if _, err := holder.Exec(t.Context(), `commit`); err != nil {
				t.Fatal(err)
			}
			if err := <-wrote; err != nil {
				t.Fatal(err)
			}
			if n := pgtest.Value[int](t, db, `select count(*) from pgcast.event_log`); n != 1 {
				t.Errorf("%d events, want 1", n)
			}
			var left string
			if err := writer.QueryRow(t.Context(), `show lock_timeout`).Scan(&left); err != nil || left != "10ms" {
				t.Errorf("the writer's lock_timeout is %s afterwards (%v)", left, err)
			}
		})
	}
}

// Writers whose transactions touch several topics in random order, at every isolation
// level: capture makes none of them fail or deadlock.
func TestCaptureConcurrentWriters(t *testing.T) {
	t.Parallel()
	const writers, transactions = 8, 30
	db := pgtest.New(t, nil)
	db.Exec(t, `create table m (id bigint generated always as identity primary key, room int, body text, writer int); select pgcast.attach('m', topic => 'room:{room}')`)
	pool := db.Pool(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	failed := map[string]int{}
	for w := range writers {
		wg.Go(func() {
			level := []pgx.TxIsoLevel{pgx.ReadCommitted, pgx.RepeatableRead, pgx.Serializable}[w%3]
			for range transactions {
				err := pgx.BeginTxFunc(t.Context(), pool, pgx.TxOptions{IsoLevel: level}, func(tx pgx.Tx) error {
					for range 4 {
						if _, err := tx.Exec(t.Context(), `insert into m (room, writer) values ($1, $2)`, rand.IntN(3), w); err != nil {
							return err
						}
						time.Sleep(time.Millisecond) // so that transactions overlap
					}
					return nil
				})
				if err != nil {
					mu.Lock()
					failed[err.Error()]++
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	if len(failed) > 0 {
		t.Errorf("failed writes: %v", failed)
	}
	if n := pgtest.Value[int](t, db, `select count(*) from pgcast.event_log`); n != writers*transactions*4 {
		t.Errorf("%d events, want %d", n, writers*transactions*4)
	}
}

// No row written: no event, no transaction number, no lock, no bell.
func TestCaptureNothing(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t, nil).Conn(t)
	_, err := conn.Exec(t.Context(), messages+partitioned+`select pgcast.attach('messages', topic => 'room:{room_id}'), pgcast.attach('p')`)
	if err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{
		`insert into messages select 1 where false`, `update messages set body = ''`, `delete from messages`, `update p set body = ''`, `delete from p1`,
	} {
		var wrote bool
		batch := &pgx.Batch{}
		batch.Queue(`begin`)
		batch.Queue(sql)
		batch.Queue(`select pg_current_xact_id_if_assigned() is not null or exists (select from pg_locks where locktype = 'advisory' and pid = pg_backend_pid())`).QueryRow(func(row pgx.Row) error { return row.Scan(&wrote) })
		batch.Queue(`commit`)
		if err := conn.SendBatch(t.Context(), batch).Close(); err != nil {
			t.Fatal(err)
		}
		if wrote {
			t.Errorf("%s took a transaction number or a lock", sql)
		}
	}
}
