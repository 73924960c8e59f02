package server

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast/internal/doctor"
	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/internal/roles"
	"github.com/pgcast/pgcast/internal/wire"
	"github.com/pgcast/pgcast/replay"
)

// troupe is a database whose rights are divided: whoever deploys owns the application's tables
// and may do what pgcast's owner may, servers and the application may not.
type troupe struct {
	t              testing.TB
	db             *pgtest.DB
	roles          roles.Options
	deploy, writer *pgx.Conn
	server         string // URL
	logged         *logged
}

// logged keeps what a server logs.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func newTroupe(t testing.TB, kind pgtest.Kind, wal bool) *troupe {
	t.Helper()
	db := pgtest.New(t, &pgtest.Options{Kind: kind})
	name := func(as string) string { return db.Name + "_" + as }
	w := &troupe{t: t, db: db, logged: &logged{}, roles: roles.Options{Owner: name("owner"), Server: name("server"), Writer: name("writer"), WAL: wal}}
	t.Cleanup(w.forget)
	w.apply()
	more := ""
	if wal {
		more = " replication" // to make the slot
	}
	db.Exec(t, fmt.Sprintf(`create role %[1]s login%[5]s; create role %[2]s login; grant %[3]s to %[1]s; grant %[4]s to %[2]s;
		create schema shop authorization %[1]s`, name("deploy"), name("app"), name("owner"), name("writer"), more))
	w.deploy, w.writer = w.connect(name("deploy")), w.connect(name("app"))
	w.server = w.url(name("server"))
	w.exec(w.deploy, fmt.Sprintf(`create table shop.item (id int primary key, room_id int, title text, secret text);
		create table shop.part (id int, day date, body text, primary key (id, day)) partition by range (day);
		create table shop.part1 partition of shop.part for values from ('2026-01-01') to ('2027-01-01');
		create table shop.wide (id int primary key, body text); alter table shop.wide alter column body set storage external;
		grant usage on schema shop to %[1]s; grant select, insert, update, delete, truncate on all tables in schema shop to %[1]s`, name("app")))
	return w
}

func (w *troupe) forget() {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, w.db.URL)
	if err != nil {
		w.t.Error(err)
		return
	}
	defer conn.Close(ctx)
	for _, as := range []string{"deploy", "app", "owner", "server", "writer"} {
		for _, sql := range []string{"reassign owned by %s to current_user", "drop owned by %s cascade", "drop role %s"} {
			if _, err := conn.Exec(ctx, fmt.Sprintf(sql, w.db.Name+"_"+as)); err != nil {
				w.t.Error(err)
			}
		}
	}
}

func (w *troupe) url(role string) string { return as(w.db, role) }

// as gives the URL of a database for another role.
func as(db *pgtest.DB, role string) string { return strings.Replace(db.URL, "postgres@", role+"@", 1) }

func (w *troupe) connect(role string) *pgx.Conn {
	w.t.Helper()
	conn, err := pgx.Connect(context.Background(), w.url(role))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func (w *troupe) exec(conn *pgx.Conn, sql string) {
	w.t.Helper()
	if _, err := conn.Exec(w.t.Context(), sql); err != nil {
		w.t.Fatalf("as %s: %s: %v", conn.Config().User, sql, err)
	}
}

// apply runs what pgcast roles prints.
func (w *troupe) apply() {
	w.t.Helper()
	conn := w.db.Conn(w.t)
	sections, err := roles.Script(w.t.Context(), conn, w.roles)
	if err != nil {
		w.t.Fatal(err)
	}
	w.exec(conn, "begin")
	for _, s := range sections {
		for _, sql := range s.Statements {
			w.exec(conn, sql)
		}
	}
	w.exec(conn, "commit")
}

func (w *troupe) start(wake replay.Wake) *running {
	w.t.Helper()
	return start(w.t, w.server, func(o *Options) {
		o.Wake, o.RetentionEvery = wake, 100*time.Millisecond
		o.Logger = slog.New(slog.NewTextHandler(w.logged, nil))
	}).awaitReady(w.t)
}

// mayAll looks for what the server was refused, but for some table.
func (w *troupe) mayAll(but ...string) {
	w.t.Helper()
	for line := range strings.Lines(w.logged.String()) {
		if strings.Contains(line, "42501") || strings.Contains(line, "permission") {
			if len(but) == 0 || !strings.Contains(line, but[0]) {
				w.t.Errorf("the server logs %s", line)
			}
		}
	}
}

// TestServerRole runs a server with the rights of its role, and nothing more, through all that
// it does: it sequences, delivers, publishes, reads snapshots of single columns, looks after
// groups and attached tables, and trims.
func TestServerRole(t *testing.T) {
	t.Parallel()
	w := newTroupe(t, pgtest.Doorbell, false)
	w.exec(w.deploy, `select pgcast.attach('shop.item', topic => 'room:{room_id}', without => '{secret}'); select pgcast.attach('shop.part', topic => 'part')`)
	w.apply()
	w.apply() // again, for nothing
	r := w.start(replay.WakeNotify)
	p := r.dial(t)
	for _, topic := range []string{"room:1", "part", "group:lobby"} {
		p.send(fmt.Sprintf(`{"type":"subscribe","topic":%q,"ref":1}`, topic))
		p.want(wire.Subscribed)
	}
	w.exec(w.writer, `insert into shop.item values (1, 1, 'one', 'canary'), (2, 1, 'two', 'canary')`)
	p.told("room:1", "created", `{"id":1,"room_id":1,"title":"one"}`)
	p.told("room:1", "created", `{"id":2,"room_id":1,"title":"two"}`)
	w.exec(w.writer, `insert into shop.part values (1, '2026-02-01', 'a')`)
	p.told("part", "created", `{"id":1,"day":"2026-02-01","body":"a"}`)
	w.exec(w.writer, `truncate shop.part1`)
	p.told("part", "deleted", `{"id":1,"day":"2026-02-01"}`)
	if status, _, text := post(t, "http://"+r.listen+"/topics/room:1/events", `{"a":1}`); status != http.StatusCreated && status != http.StatusOK {
		t.Errorf("publish: %d %s", status, text)
	}
	p.told("room:1", "said", `{"a": 1}`)
	w.exec(w.writer, `select pgcast.publish('room:1', 'said', '2')`)
	p.told("room:1", "said", `2`)
	w.exec(w.writer, `select pgcast.create_group('lobby')`)
	if f := p.want(wire.Event); f.Events[0].Topic != "group:lobby" || f.Events[0].Name != "created" {
		t.Errorf("of the group: %+v", f.Events)
	}
	status, text := get(t, "http://"+r.listen+"/topics/room:1/snapshot")
	if status != http.StatusOK || !strings.Contains(text, `"title":"two"`) || strings.Contains(text, "canary") {
		t.Errorf("snapshot: %d %s", status, text)
	}
	if status, text := get(t, "http://"+r.listen+"/topics/room:1/events?after=0"); status != http.StatusOK || strings.Count(text, `"event":"created"`) != 2 {
		t.Errorf("history: %d %s", status, text)
	}
	if status, text := get(t, "http://"+r.listen+"/groups/lobby"); status != http.StatusOK {
		t.Errorf("group: %d %s", status, text)
	}
	// A column more, found by the look after attached tables, and captured since.
	w.exec(w.deploy, `alter table shop.item add column price int`)
	holds := func(what, sql string) {
		t.Helper()
		await(t, what, func() bool { return pgtest.Value[bool](t, w.db, "select exists ("+sql+")") })
	}
	holds("it tells that the table was altered", `select from pgcast.event_log where topic = 'room:1' and event = 'altered'`)
	holds("the capture function is made anew", `select from pg_proc p where p.pronamespace = 'pgcast'::regnamespace and p.prosrc like '%price%'`)
	w.exec(w.writer, `insert into shop.item values (3, 1, 'three', 'canary', 5)`)
	holds("the new column is captured", `select from pgcast.event_log where topic = 'room:1' and event = 'created' and data->>'price' = '5' and data->>'secret' is null`)
	w.exec(w.deploy, `alter table shop.item disable trigger "00_pgcast_insert"`)
	holds("it tells that a trigger is disabled", `select from pgcast.attachment where array_to_string(trouble, ' ') like '%is disabled%'`)
	w.exec(w.deploy, `set role `+w.roles.Owner+`; select pgcast.retain('room:*', max_count => 1)`)
	await(t, "all but one event of the topic is trimmed", func() bool {
		return pgtest.Value[int](t, w.db, `select count(*)::int from pgcast.event_log where topic = 'room:1'`) == 1
	})
	w.mayAll()
	w.apply()                                              // the new column too
	w.healthy(replay.WakeNotify, "triggers", "durability") // the cluster does without fsync
}

// healthy has doctor look as the server's role.
func (w *troupe) healthy(wake replay.Wake, but ...string) {
	w.t.Helper()
	d := doctor.New(&doctor.Options{DatabaseURL: w.server, Wake: wake})
	err := d.Run(w.t.Context(), func(r doctor.Result) error {
		if r.State == doctor.Fail && !strings.Contains(strings.Join(but, " "), r.Name) || r.Name == "privileges" && r.State != doctor.OK && r.State != doctor.Note || strings.Contains(r.Found, "could not look: perm") {
			w.t.Errorf("doctor: %s %s: %s (%s)", r.State, r.Name, r.Found, r.Mend)
		}
		return nil
	})
	if err != nil {
		w.t.Error(err)
	}
}

// TestServerRoleWAL does the same where servers are woken by the WAL, and capture from it:
// changes, large values that are not in the WAL, large transactions that come before their end.
func TestServerRoleWAL(t *testing.T) {
	t.Parallel()
	w := newTroupe(t, pgtest.Logical, true)
	w.exec(w.deploy, `select pgcast.open_slot()`)
	w.exec(w.deploy, `select pgcast.attach('shop.item', topic => 'room', columns => '{id,room_id,title}', capture => 'wal')`)
	w.exec(w.deploy, `select pgcast.attach('shop.wide', capture => 'wal')`)
	w.apply()
	w.exec(w.db.Conn(t), `alter role `+w.roles.Server+` set logical_decoding_work_mem = '64kB'`)
	r := w.start(replay.WakeWAL)
	p := r.dial(t)
	for _, topic := range []string{"room", "wide", "a"} {
		p.send(fmt.Sprintf(`{"type":"subscribe","topic":%q,"ref":1}`, topic))
		p.want(wire.Subscribed)
	}
	w.exec(w.writer, `insert into shop.item values (1, 1, 'one', 'canary')`)
	p.told("room", "created", `{"id":1,"room_id":1,"title":"one"}`)
	w.exec(w.writer, `begin; update shop.item set title = 'two'; select pgcast.publish('a', 'said', '1'); commit`)
	p.told("room", "updated", `{"id":1,"room_id":1,"title":"two"}`)
	p.told("a", "said", "1")

	// More than fits into Postgres' memory for it comes before its end, and waits in the stage.
	w.exec(w.writer, `insert into shop.item select n, 1, repeat('x', 100), 'canary' from generate_series(2, 5001) n`)
	w.count(`topic = 'room' and event = 'created'`, 5001)
	w.exec(w.writer, `truncate shop.item`)
	w.count(`topic = 'room' and event = 'truncated'`, 1)

	// A large value that an update leaves alone is not in the WAL. It is read as the server's
	// role; where that may not, nothing is captured until it may, and nothing is left out.
	w.exec(w.writer, `insert into shop.wide values (1, repeat(md5(random()::text), 1000)), (2, 'small')`)
	w.count(`topic = 'wide' and event = 'created'`, 2)
	w.exec(w.deploy, `revoke select on shop.wide from `+w.roles.Server)
	w.exec(w.writer, `update shop.wide set id = 3 where id = 1; update shop.wide set id = 4 where id = 2`)
	await(t, "the server says which right it lacks", func() bool {
		return strings.Contains(w.logged.String(), "permission denied for table wide") && strings.Contains(w.logged.String(), "give the server's role the right")
	})
	w.count(`topic = 'wide' and event = 'updated'`, 0)
	w.apply()
	w.count(`topic = 'wide' and event = 'updated' and (data->>'id' = '4' or octet_length(data->>'body') = 32000)`, 2)

	w.healthy(replay.WakeWAL, "durability")
	w.exec(w.deploy, `select pgcast.detach('shop.item'); select pgcast.detach('shop.wide')`)
	await(t, "the server drops the slot", func() bool {
		return pgtest.Value[int](t, w.db, `select count(*)::int from pg_replication_slots where database = current_database() and not temporary`) == 0
	})
	w.mayAll("for table wide")
}

// count waits for so many events.
func (w *troupe) count(which string, want int) {
	w.t.Helper()
	await(w.t, fmt.Sprintf("%d events where %s", want, which), func() bool {
		return pgtest.Value[int](w.t, w.db, `select count(*)::int from pgcast.event_log where `+which) == want
	})
}
