package main

import (
	"encoding/json"
	"net"
	"regexp"
	"strings"
	"testing"

	"github.com/pgcast/pgcast/internal/pgtest"
)

// withDatabase gives a shell whose commands use a database of the test's own.
func withDatabase(t *testing.T, opts *pgtest.Options) (*shell, *pgtest.DB) {
	t.Helper()
	db := pgtest.New(t, opts)
	return newShell(t, "PGCAST_DATABASE_URL="+db.URL), db
}

func TestMigrate(t *testing.T) {
	t.Parallel()
	s, db := withDatabase(t, &pgtest.Options{Empty: true})
	s.run(t, "serve", "--listen", "127.0.0.1:0").fails(t, 1, "this database has no schema pgcast yet", "run pgcast migrate up")
	s.run(t, "publish", "a", "b").fails(t, 1, `schema "pgcast" does not exist`, "run pgcast migrate up")

	status := s.run(t, "migrate", "status").ok(t)
	if !strings.HasPrefix(status, "version\tmigration\tran\n00001\t00001_log.sql\tno\n") {
		t.Errorf("status of an empty database:\n%s", status)
	}
	r := s.run(t, "migrate", "up")
	if r.ok(t) != "" || !strings.Contains(r.err, "ran 00001_log.sql\n") {
		t.Errorf("migrate up:\n%s", r)
	}
	if r := s.run(t, "migrate", "up"); r.ok(t) != "" || r.err != "schema pgcast is up to date\n" {
		t.Errorf("a second migrate up:\n%s", r)
	}
	var first struct {
		Version   int
		Migration string
		Ran       *string
	}
	line, _, _ := strings.Cut(s.run(t, "migrate", "status", "--json").ok(t), "\n")
	if err := json.Unmarshal([]byte(line), &first); err != nil {
		t.Fatal(err)
	}
	if first.Version != 1 || first.Migration != "00001_log.sql" || first.Ran == nil {
		t.Errorf("status --json begins with %s", line)
	}

	// All the way down again, one by one, and never by accident.
	s.run(t, "migrate", "down").fails(t, 1, "takes back", "add --yes")
	for pgtest.Value[bool](t, db, `select to_regnamespace('pgcast') is not null`) {
		s.run(t, "migrate", "down", "--yes").ok(t)
	}
	if r := s.run(t, "migrate", "down", "--yes"); r.ok(t) != "" || !strings.Contains(r.err, "nothing to take back") {
		t.Errorf("migrate down of nothing:\n%s", r)
	}
	s.run(t, "migrate", "sideways").fails(t, 2, `unknown command "sideways" for "pgcast migrate"`)
}

func TestSQL(t *testing.T) {
	t.Parallel()
	s, _ := withDatabase(t, nil)
	tests := []struct {
		name, in, out string
		args          []string
	}{
		{name: "rows", args: []string{"select 1 as a, null::int as b, E'x\\ty' as c"}, out: "a\tb\tc\n1\t\tx\\ty"},
		{name: "no rows", args: []string{"select 1 as a where false"}, out: "a"},
		{name: "several statements", args: []string{"create temp table t (a int); insert into t values (7); select a from t"}, out: "a\n7"},
		{name: "from standard input", in: "select 2 as two", out: "two\n2"},
		{name: "from standard input, said so", in: "select 2 as two", args: []string{"-"}, out: "two\n2"},
		{name: "as JSON", args: []string{"--json", `select 1 as a, 2.50 as a, 'NaN'::float8 as n, true as t, '{"k": [1]}'::jsonb as j, null as z, '<"' as s`},
			out: `{"a":1,"a_2":2.50,"n":"NaN","t":true,"j":{"k":[1]},"z":null,"s":"<\""}`},
		{name: "nothing to do with the terminal", args: []string{`select E'a\x1b[2Jb' as x`}, out: "x\n" + `a\u001b[2Jb`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := s.pipe(t, tt.in, append([]string{"sql"}, tt.args...)...).ok(t); got != tt.out {
				t.Errorf("got %q, want %q", got, tt.out)
			}
		})
	}
	if r := s.run(t, "sql", "do $$ begin raise notice 'psst'; end $$"); r.ok(t) != "" || r.err != "NOTICE: psst\nDO\n" {
		t.Errorf("a notice:\n%s", r)
	}
	s.run(t, "sql", "select 1;\nselect *\nfrom nosuch").fails(t, 1, `relation "nosuch" does not exist`, "LINE 3: from nosuch\n", "  ^\n")
	s.run(t, "sql", "select 1/0").fails(t, 1, "division by zero")
	s.run(t, "sql", " ").fails(t, 2, "no SQL to run")
	s.run(t, "sql", "select", "1").fails(t, 2, "accepts at most 1 arg", "pgcast sql --help")
	// COPY has the streams for itself, and never waits for rows that cannot come.
	s.run(t, "sql", "create table copied (a int, b text)").ok(t)
	if r := s.pipe(t, "1\tx\n2\ty\n", "sql", "/* two rows */\ncopy copied from stdin;"); r.ok(t) != "" || r.err != "COPY 2\n" {
		t.Errorf("copy from stdin:\n%s", r)
	}
	if r := s.run(t, "sql", "copy copied to stdout"); r.ok(t) != "1\tx\n2\ty" || r.err != "COPY 2\n" {
		t.Errorf("copy to stdout:\n%s", r)
	}
	s.pipe(t, "x\n", "sql", "copy copied from stdin").fails(t, 1, "invalid input syntax for type integer")
	s.pipe(t, "create table dump (a int);\n--\n-- its rows\n--\n\nCOPY public.dump (a) FROM stdin;\n1\n\\.\n", "sql").fails(t, 2, "among other statements", "pg_dump --inserts")
	s.run(t, "sql", "select 1; copy copied to stdout").fails(t, 2, "among other statements")
	s.pipe(t, "copy copied from stdin", "sql").fails(t, 2, "standard input is for its rows")
	many := s.run(t, "sql", "select g from generate_series(1, 5000) g").ok(t)
	if lines := strings.Split(many, "\n"); len(lines) != 5001 || lines[5000] != "5000" {
		t.Errorf("%d lines of 5001", len(lines))
	}
}

func TestPublish(t *testing.T) {
	t.Parallel()
	s, db := withDatabase(t, nil)
	id := s.run(t, "publish", "room:1", "typing", `{"by": "ann"}`).ok(t)
	if !regexp.MustCompile(`^[0-9a-f]+-[0-9a-f]+$`).MatchString(id) {
		t.Errorf("it printed %q instead of an id", id)
	}
	type row struct{ topic, event, data string }
	last := func() row {
		return row{
			pgtest.Value[string](t, db, `select topic from pgcast.event_log order by id desc limit 1`),
			pgtest.Value[string](t, db, `select event from pgcast.event_log order by id desc limit 1`),
			pgtest.Value[string](t, db, `select coalesce(data::text, 'none') from pgcast.event_log order by id desc limit 1`)}
	}
	if want := (row{"room:1", "typing", `{"by": "ann"}`}); last() != want {
		t.Errorf("got %v, want %v", last(), want)
	}
	s.pipe(t, "[1, 2]", "publish", "a", "b", "-").ok(t)
	if want := (row{"a", "b", "[1, 2]"}); last() != want {
		t.Errorf("got %v, want %v", last(), want)
	}
	s.run(t, "publish", "a", "bare").ok(t)
	if want := (row{"a", "bare", "none"}); last() != want {
		t.Errorf("got %v, want %v", last(), want)
	}
	first := s.run(t, "publish", "a", "b", "1", "--key", "k").ok(t)
	if again := s.run(t, "publish", "a", "b", "2", "--key", "k").ok(t); again != first {
		t.Errorf("the same key gave %s, and then %s", first, again)
	}

	// An unset variable in a script must not publish twice.
	s.run(t, "publish", "a", "b", "1", "--key", "").fails(t, 2, "--key is empty", "leave it out")
	s.run(t, "publish", "room:*", "b").fails(t, 2, `topic "room:*" is a pattern`)
	s.run(t, "publish", "__system", "b").fails(t, 2, "reserved")
	s.run(t, "publish", "a", "").fails(t, 2, "is not an event name")
	s.run(t, "publish", "a", "b", "{").fails(t, 2, "the data is not JSON", "quote it for the shell")
	s.run(t, "publish", "a", "b", `"\u0000"`).fails(t, 1, `unsupported Unicode escape sequence`)
	s.run(t, "publish", "a").fails(t, 2, "accepts between 2 and 3 arg")
}

func TestNoDatabase(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"serve"}, {"sql", "select 1"}, {"publish", "a", "b"}, {"migrate", "up"}, {"migrate", "status"},
		{"attach", "t"}, {"detach", "t"}, {"attached"}, {"doctor"}, {"uninstall"},
	} {
		newShell(t).run(t, args...).fails(t, 1, "no database to connect to", "PGCAST_DATABASE_URL", "pgcast dev")
	}
	newShell(t, "DATABASE_URL=postgres://x").run(t, "sql", "select 1").fails(t, 1, `--database-url "$DATABASE_URL"`)
}

// nobody gives an address that was free a moment ago; nobody answers there.
func nobody(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	addr := nobody(t)
	for _, args := range [][]string{{"sql", "select 1"}, {"publish", "a", "b"}, {"migrate", "up"}, {"serve"}, {"attached"}} {
		newShell(t, "PGCAST_DATABASE_URL=postgres://u@"+addr+"/x").run(t, args...).
			fails(t, 1, "is Postgres running there", "connection refused", "`user=u database=x`: ")
	}
	_, db := withDatabase(t, nil)
	newShell(t, "PGCAST_DATABASE_URL="+strings.Replace(db.URL, db.Name, "nosuch", 1)).run(t, "sql", "select 1").
		fails(t, 1, `database "nosuch" does not exist`, "create it, or correct database-url")
}
