package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgcast/pgcast/internal/pgtest"
)

func TestAttach(t *testing.T) {
	t.Parallel()
	s, db := withDatabase(t, nil)
	db.Exec(t, `
		create table messages (id bigint primary key, room_id int, body text, secret text);
		create table "Odd, Table" (id int primary key, "a,b" int, "c}d" int);
		create view seen as select * from messages`)
	last := func() string {
		return pgtest.Value[string](t, db, `select topic || ' ' || event || ' ' || coalesce(data::text, '-') || ' ' || coalesce(old::text, '-')
			from pgcast.event_log order by id desc limit 1`)
	}

	if r := s.run(t, "attached"); r.ok(t) != "table\ttopic\tcolumns\tcapture\toptions" || !strings.Contains(r.err, "no table is attached") {
		t.Errorf("attached before anything is:\n%s", r)
	}
	r := s.run(t, "attach", "public.messages", "--topic", "room:{room_id}", "--except", "secret", "--old", "--numbers", "text")
	if r.ok(t) != "" || !strings.Contains(r.err, "its writes are events of room:{room_id}\n") || !strings.Contains(r.err, "tail 'room:*'") {
		t.Errorf("attach:\n%s", r)
	}
	db.Exec(t, `insert into messages values (1, 7, 'hi', 'canary')`)
	if want := `room:7 created {"id":"1","room_id":7,"body":"hi"} -`; last() != want {
		t.Errorf("got %s, want %s", last(), want)
	}
	db.Exec(t, `update messages set body = 'ho'`)
	if want := `room:7 updated {"id":"1","room_id":7,"body":"ho"} {"id":"1","room_id":7,"body":"hi"}`; last() != want {
		t.Errorf("got %s, want %s", last(), want)
	}
	s.run(t, "attach", `"Odd, Table"`, "--columns", `"a,b",id`, "--topic", "odd:{a,b}").ok(t)
	want := "table\ttopic\tcolumns\tcapture\toptions\n" +
		"public.\"Odd, Table\"\todd:{a,b}\ta,b, id\ttrigger\t\n" +
		"public.messages\troom:{room_id}\tall but secret\ttrigger\told, numbers as text"
	if diff := cmp.Diff(want, s.run(t, "attached").ok(t)); diff != "" {
		t.Error(diff)
	}
	var rows []attachedRow
	for line := range strings.SplitSeq(s.run(t, "attached", "--json").ok(t), "\n") {
		var row attachedRow
		if err := json.Unmarshal([]byte(line), &row); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		rows = append(rows, row)
	}
	if len(rows) != 2 || rows[1].Table != "public.messages" || rows[1].Topic != "room:{room_id}" || !rows[1].Old {
		t.Errorf("attached --json: %+v", rows)
	}

	// What is wrong is said, and --check makes it an exit code.
	s.run(t, "attached", "--check").ok(t)
	db.Exec(t, `alter table messages disable trigger "00_pgcast_update"`)
	r = s.run(t, "attached")
	if r.ok(t) != want || !strings.Contains(r.err, "drift: public.messages: trigger \"00_pgcast_update\" is disabled\n mend: alter table") {
		t.Errorf("attached with a disabled trigger:\n%s", r)
	}
	r = s.run(t, "attached", "--check", "--json")
	r.fails(t, 1, "has drifted in 1 places")
	var d drift
	if err := json.Unmarshal([]byte(r.out), &d); err != nil || d.Table != "public.messages" {
		t.Errorf("attached --check --json: %v\n%s", err, r)
	}
	db.Exec(t, d.Mend)
	s.run(t, "attached", "--check").ok(t)

	// Attaching again replaces every option.
	s.run(t, "attach", "messages").ok(t)
	db.Exec(t, `insert into messages values (2, 7, 'x', 'y')`)
	if want := `messages created {"id":2,"room_id":7,"body":"x","secret":"y"} -`; last() != want {
		t.Errorf("got %s, want %s", last(), want)
	}

	// What --print prints does what the command does.
	if r := s.run(t, "detach", "messages"); r.ok(t) != "" || r.err != "messages is detached\n" {
		t.Errorf("detach:\n%s", r)
	}
	before := last()
	db.Exec(t, `insert into messages values (3, 7, 'unseen', '')`)
	if last() != before {
		t.Errorf("detached, and yet captured: %s", last())
	}
	script := s.run(t, "attach", "messages", "--topic", "m:{id}", "--print").ok(t)
	if last() != before || strings.Contains(s.run(t, "attached").ok(t), "public.messages\t") {
		t.Error("--print has attached")
	}
	s.pipe(t, script, "sql").ok(t)
	db.Exec(t, `insert into messages values (4, 7, 'printed', null)`)
	if want := `m:4 created {"id":4,"room_id":7,"body":"printed","secret":null} -`; last() != want {
		t.Errorf("got %s, want %s", last(), want)
	}
	s.pipe(t, s.run(t, "detach", "messages", "--print").ok(t), "sql").ok(t)
	if r := s.run(t, "detach", "messages"); r.ok(t) != "" || r.err != "messages was not attached\n" {
		t.Errorf("detach after detach:\n%s", r)
	}

	// A table that was dropped is told too.
	db.Exec(t, `create table gone (id int); select pgcast.attach('gone'); drop table gone`)
	if r := s.run(t, "attached"); !strings.Contains(r.ok(t), "\tgone\tall\ttrigger\t") || !strings.Contains(r.err, "the table was dropped; its topic was gone\n mend: select pgcast.refresh()") {
		t.Errorf("attached with a dropped table:\n%s", r)
	}
	db.Exec(t, `select pgcast.refresh()`)

	s.run(t, "attach", "nosuch").fails(t, 1, `relation "nosuch" does not exist`)
	s.run(t, "attach", "pgcast_nosuch").fails(t, 1, `relation "pgcast_nosuch" does not exist`)
	s.run(t, "attach", "Odd, Table").fails(t, 1, "invalid name syntax", `'public."Messages"'`)
	s.run(t, "attach", "seen").fails(t, 1, "is a view", "the tables below it")
	s.run(t, "attach", "messages", "--topic", "{nosuch}").fails(t, 1, "has no column nosuch", "Its columns: id, room_id, body, secret.")
	s.run(t, "attach", "messages", "--numbers", "roman").fails(t, 1, "'roman' is not a way to write numbers")
	s.run(t, "attach", "messages", "--columns", "id", "--except", "body").fails(t, 2, "--columns or --except, not both")
	s.run(t, "attach", "messages", "--capture", "magic").fails(t, 1, "'magic' is not a way to capture")
	s.run(t, "attach").fails(t, 2, "accepts 1 arg(s)", "pgcast attach --help")
	s.run(t, "detach", "nosuch").fails(t, 1, `relation "nosuch" does not exist`)

	if out := s.run(t, "__complete", "attach", "").ok(t); !strings.HasPrefix(out, "\"Odd, Table\"\nmessages\n:") {
		t.Errorf("attach completes to:\n%s", out)
	}
	if out := s.run(t, "__complete", "detach", "").ok(t); !strings.HasPrefix(out, "\"Odd, Table\"\n:") {
		t.Errorf("detach completes to:\n%s", out)
	}
}

func TestPatternOf(t *testing.T) {
	t.Parallel()
	for template, want := range map[string]string{
		"messages": "messages", "room:{room_id}": "room:*", "a:{b}:c:{d}-{e}": "a:*:c:*", "{x}": "*",
	} {
		if got := patternOf(template); got != want {
			t.Errorf("patternOf(%q) = %q, want %q", template, got, want)
		}
	}
}

func TestEnforce(t *testing.T) {
	t.Parallel()
	s, db := withDatabase(t, nil)
	role := "reader_" + db.Name
	db.Exec(t, `create role `+role+`; create table docs (id int primary key, owner text); grant select on docs to `+role+`; select pgcast.attach('docs')`)
	if r := s.run(t, "enforce", "docs", "--role", role); r.code == 0 || !strings.Contains(r.err, "row security is not enabled") || !strings.Contains(r.err, "alter table public.docs enable row level security") {
		t.Errorf("enforce without row security:\n%s", r)
	}
	db.Exec(t, `alter table docs enable row level security; create policy mine on docs using (true)`)
	if r := s.run(t, "enforce", "docs", "--role", role, "--claims", "sub,org"); r.ok(t) != "" || !strings.Contains(r.err, "to role "+role+" with claims sub, org") {
		t.Errorf("enforce:\n%s", r)
	}
	if out := s.run(t, "attached").ok(t); !strings.Contains(out, "rows as "+role+" sees them") {
		t.Errorf("attached:\n%s", out)
	}
	if out := s.run(t, "doctor").out; !strings.Contains(out, "1 table shown as policies have it") {
		t.Errorf("doctor:\n%s", out)
	}
	db.Exec(t, `alter table docs disable row level security`)
	if out := s.run(t, "doctor").out; !strings.Contains(out, "rows of public.docs are shown to nobody") {
		t.Errorf("doctor:\n%s", out)
	}
	for _, args := range [][]string{{"enforce", "docs"}, {"enforce", "docs", "--off", "--role", role}} {
		if r := s.run(t, args...); r.code != 2 {
			t.Errorf("%q:\n%s", args, r)
		}
	}
	if r := s.run(t, "enforce", "docs", "--off"); !strings.Contains(r.err, "docs is shown to all") {
		t.Errorf("off:\n%s", r)
	}
	if r := s.run(t, "enforce", "docs", "--off"); !strings.Contains(r.err, "was not enforced") {
		t.Errorf("off again:\n%s", r)
	}
	db.Exec(t, `drop owned by `+role+`; drop role `+role)
}
