package replay

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/pgtest"
)

// documents is a table whose rows are their owners', with a role that its policy is for.
type documents struct {
	db       *pgtest.DB
	role     string
	log      *Log
	security *Security
}

func newDocuments(t *testing.T, attach string) *documents {
	t.Helper()
	d := &documents{db: pgtest.New(t, nil)}
	d.role = "reader_" + d.db.Name
	d.db.Exec(t, "create role "+d.role)
	t.Cleanup(func() { dropRole(t, d.db.URL, d.role) })
	d.db.Exec(t, `create table public.documents (id bigint primary key, owner text, room int, body text);
		alter table public.documents enable row level security;
		create function public.me() returns text language sql stable as $$ select current_setting('request.jwt.claims', true)::jsonb->>'sub' $$;
		create policy mine on public.documents for select to `+d.role+` using (owner = me());
		grant select on public.documents to `+d.role)
	if attach == "" {
		attach = `select pgcast.attach('public.documents', topic => 'room:{room}', old => true)`
	}
	d.db.Exec(t, attach)
	d.db.Exec(t, "select pgcast.enforce('public.documents', '"+d.role+"')")
	d.log = sequence(t, d.db)
	d.security = d.secure(t)
	return d
}

// secure makes another one that knows what is enforced now.
func (d *documents) secure(t *testing.T) *Security {
	t.Helper()
	s := NewSecurity(d.log, &SecurityOptions{Logger: discard})
	if _, err := s.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

func (d *documents) events(t *testing.T, topic string) (list []*pgcast.Event) {
	t.Helper()
	await(t, "all is sequenced", func() bool {
		return pgtest.Value[bool](t, d.db, `select not exists (select from pgcast.event_log e where not exists (select from pgcast.replay r where r.event_id = e.id))`)
	})
	page, err := d.log.Page(t.Context(), topic, 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for i := range page.Events {
		list = append(list, &page.Events[i])
	}
	return list
}

// seen tells what a caller sees of a topic.
func (d *documents) seen(t *testing.T, claims, topic string) (lines []string) {
	t.Helper()
	lens := d.security.Lens([]byte(claims), topic)
	if lens == nil {
		t.Fatal("there is no lens")
	}
	list, err := lens.Look(t.Context(), d.events(t, topic))
	if err != nil {
		t.Fatal(err)
	}
	return describe(list)
}

func describe(list []*pgcast.Event) (lines []string) {
	for _, e := range list {
		if e == nil {
			lines = append(lines, "-")
			continue
		}
		lines = append(lines, strings.TrimSpace(fmt.Sprintf("%d %s %s %s", e.Seq, e.Name, e.Data, e.Old)))
	}
	return lines
}

func expect(t *testing.T, what string, want, got []string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

const ann, bob = `{"sub":"ann"}`, `{"sub":"bob"}`

// An owner sees what is his, as it is now; of what is not there are only keys.
func TestSecurityOwners(t *testing.T) {
	t.Parallel()
	d := newDocuments(t, "")
	d.db.Exec(t, `insert into public.documents values (1, 'ann', 1, 'of ann'), (2, 'bob', 1, 'of bob')`)
	expect(t, "ann", []string{`1 created {"id":1,"owner":"ann","room":1,"body":"of ann"}`, `2 gone  {"id":2}`}, d.seen(t, ann, "room:1"))
	expect(t, "bob", []string{`1 gone  {"id":1}`, `2 created {"id":2,"owner":"bob","room":1,"body":"of bob"}`}, d.seen(t, bob, "room:1"))
	expect(t, "nobody", []string{`1 gone  {"id":1}`, `2 gone  {"id":2}`}, d.seen(t, `{}`, "room:1"))
	// Out of view and back.
	d.db.Exec(t, `update public.documents set owner = 'bob' where id = 1`)
	expect(t, "ann, when it is bob's", []string{`1 gone  {"id":1}`, `2 gone  {"id":2}`, `3 gone  {"id":1}`}, d.seen(t, ann, "room:1"))
	d.db.Exec(t, `update public.documents set owner = 'ann', id = 3 where id = 1`)
	expect(t, "ann, when it is hers again", []string{`1 gone  {"id":1}`, `2 gone  {"id":2}`, `3 gone  {"id":1}`,
		`4 updated {"id":3,"owner":"ann","room":1,"body":"of ann"} {"id":1,"owner":"bob","room":1,"body":"of ann"}`}, d.seen(t, ann, "room:1"))
	expect(t, "bob, when it is not", []string{`4 gone  {"id":1}`}, d.seen(t, bob, "room:1")[3:])
	// What is deleted is nobody's, and no old values are shown.
	d.db.Exec(t, `delete from public.documents where id = 3`)
	expect(t, "ann, when it is deleted", []string{`4 gone  {"id":1}`, `5 gone  {"id":3}`}, d.seen(t, ann, "room:1")[3:])
	// Not of a row: of the table, or by hand.
	d.db.Exec(t, `truncate public.documents; select pgcast.publish('room:1', 'note', '"secret"'), pgcast.publish('room:1', 'note', '{"id":7}')`)
	expect(t, "ann, of no row", []string{`6 truncated {"schema":"public","table":"documents"}`, `7 gone  {}`, `8 gone  {"id":7}`}, d.seen(t, ann, "room:1")[5:])
	if lens := d.security.Lens([]byte(ann), "elsewhere"); lens != nil {
		t.Error("a topic of no table has a lens")
	}
}

// Whoever has the claims in common that policies depend on sees the same by one check.
func TestSecurityKey(t *testing.T) {
	t.Parallel()
	d := newDocuments(t, "")
	keys := func(claims string, topic string) string { return d.security.Lens([]byte(claims), topic).Key() }
	if keys(`{"sub":"ann","org":1}`, "room:1") == keys(`{"sub":"ann","org":2}`, "room:1") {
		t.Error("all claims count, unless they are named")
	}
	d.db.Exec(t, "select pgcast.enforce('public.documents', '"+d.role+"', '{sub,sub}')")
	was := keys(`{"sub":"ann","org":1}`, "room:1")
	lens := d.security.Lens([]byte(ann), "room:1")
	if !d.security.Current("room:7", lens) || d.security.Current("room:7", nil) || d.security.Current("room:*", nil) || !d.security.Current("rooms:7", nil) {
		t.Error("it does not know what is to be seen through a lens")
	}
	changed, err := d.security.Load(t.Context())
	if err != nil || !changed || d.security.Current("room:7", lens) {
		t.Fatalf("it has not seen what changed: %v", err)
	}
	if keys(`{"sub":"ann","org":1}`, "room:1") != keys(`{"sub":"ann","org":2}`, "room:1") || keys(ann, "room:1") == keys(bob, "room:1") || keys(ann, "room:1") == was {
		t.Error("the claims that are named are not those that count")
	}
	// Those that are not named are not told to policies either.
	d.db.Exec(t, `alter policy mine on public.documents using (current_setting('request.jwt.claims')::jsonb ? 'org'); insert into public.documents values (1, 'ann', 1, '')`)
	expect(t, "org", []string{`1 gone  {"id":1}`}, d.seen(t, `{"sub":"ann","org":1}`, "room:1"))
	if changed, err = d.security.Load(t.Context()); err != nil || changed {
		t.Errorf("nothing has changed: %v", err)
	}
	d.db.Exec(t, "select pgcast.unenforce('public.documents')")
	if changed, err = d.security.Load(t.Context()); err != nil || !changed || d.security.Lens([]byte(ann), "room:1") != nil || d.security.Lens([]byte(ann), "**") != nil {
		t.Errorf("it is enforced still: %v", err)
	}
	if lens := NewSecurity(d.log, nil).Lens([]byte(ann), "anything"); lens == nil {
		t.Error("before anything is known all is seen")
	} else if _, err := lens.Look(t.Context(), d.events(t, "room:1")); err == nil {
		t.Error("before anything is known events are shown")
	}
}

// The server needs no right to the table, if it may become the role; and none that row
// security would not hold for.
func TestSecurityServer(t *testing.T) {
	t.Parallel()
	d := newDocuments(t, "")
	d.db.Exec(t, `insert into public.documents values (1, 'ann', 1, 'of ann'), (2, 'bob', 1, 'of bob')`)
	events := d.events(t, "room:1")
	server := "server_" + d.db.Name
	d.db.Exec(t, `create role `+server+` login; grant `+d.role+` to `+server+`; grant usage on schema pgcast to `+server+`;
		grant select on all tables in schema pgcast to `+server+`; grant execute on all functions in schema pgcast to `+server)
	t.Cleanup(func() { dropRole(t, d.db.URL, server) })
	log := NewLog(poolAs(t, d.db, server), nil)
	s := NewSecurity(log, &SecurityOptions{Logger: discard})
	if _, err := s.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	lens := s.Lens([]byte(ann), "room:1")
	got, err := lens.Look(t.Context(), events)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "events", []string{`1 created {"id":1,"owner":"ann","room":1,"body":"of ann"}`, `2 gone  {"id":2}`}, describe(got))
	var rows []string
	if err := lens.Snapshot(t.Context(), "room:1", func(pgcast.Snapshot) error { return nil }, func(r pgcast.Row) error {
		rows = append(rows, string(r.Data))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	expect(t, "snapshot", []string{`{"id":1,"owner":"ann","room":1,"body":"of ann"}`}, rows)
	if err := log.Snapshot(t.Context(), "room:1", func(pgcast.Snapshot) error { return nil }, func(pgcast.Row) error { return nil }); !errors.Is(err, pgcast.ErrForbidden) {
		t.Errorf("as itself: %v", err)
	}
	d.db.Exec(t, `revoke `+d.role+` from `+server)
	if got, err := s.Lens([]byte(bob), "room:1").Look(t.Context(), events); err == nil {
		t.Errorf("it may not become the role, and shows %q", describe(got))
	}
}

// The key of a row may be of any type and of several columns, in numbers or text, and an
// event may be too large to be read.
func TestSecurityKeys(t *testing.T) {
	t.Parallel()
	d := newDocuments(t, `create type public.mood as enum ('good', 'bad');
		create domain public.short as text check (length(value) < 9);
		create table public.wide ("a ""b" uuid, n numeric(10,2), at timestamptz, m mood, s short, v varchar(20), b bool, raw bytea, list int[], d date, r int4range, owner text, body text, never short not null default '',
			primary key ("a ""b", n, at, m, s, v, b, raw, list, d, r));
		alter table public.wide enable row level security;
		select pgcast.attach('public.documents', topic => 'room:{room}'), pgcast.attach('public.wide', topic => 'wide:{owner}', numbers => 'text')`)
	d.db.Exec(t, `create policy mine on public.wide for select to `+d.role+` using (owner = me()); grant select on public.wide to `+d.role+`; select pgcast.enforce('public.wide', '`+d.role+`', '{sub}');
		insert into public.wide select gen_random_uuid(), i + 0.5, now(), 'bad', 'é"', 'v' || i, true, '\x00ff', array[i, null], '2020-02-29', '[1,5)', 'ann', repeat('x', case i when 2 then 5000 else 1 end) from generate_series(1, 3) i`)
	if _, err := d.security.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	events := d.events(t, "wide:ann")
	if len(events) != 3 || !events[1].Oversize || events[1].Data != nil {
		t.Fatalf("events: %q", describe(events))
	}
	got, err := d.security.Lens([]byte(ann), "wide:*").Look(t.Context(), events)
	if err != nil || !slices.Equal(got, events) {
		t.Errorf("ann sees %q, %v", describe(got), err)
	}
	if got, err = d.security.Lens([]byte(bob), "wide:ann").Look(t.Context(), events); err != nil {
		t.Fatal(err)
	}
	for i, e := range got {
		if e.Name != pgcast.Gone || e.Data != nil || e.Oversize || !strings.Contains(string(e.Old), fmt.Sprintf(`"n":"%d.50","at":"`, i+1)) || strings.Contains(string(e.Old), "body") {
			t.Errorf("bob sees %q", describe(got[i:i+1]))
		}
	}
}
