package examples

import (
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pgcast/pgcast/internal/pgtest"
)

var loads = regexp.MustCompile(`(?:src="|href="|from ')([^"'#]+\.(?:js|css))["']`)

// loaded gives the files that a page loads, itself included; those of the server but the client
// and its icon are an error.
func loaded(t *testing.T, name string) []string {
	t.Helper()
	all := []string{name}
	for i := 0; i < len(all); i++ {
		text, err := fs.ReadFile(files, all[i])
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, m := range loads.FindAllSubmatch(text, -1) {
			at := string(m[1])
			if strings.HasPrefix(at, "/client/") {
				continue
			}
			if strings.Contains(at, "://") || strings.HasPrefix(at, "/") {
				t.Errorf("%s loads %s", all[i], at)
				continue
			}
			if at = path.Join(path.Dir(all[i]), at); !slices.Contains(all, at) {
				all = append(all, at)
			}
		}
	}
	return all
}

// An example is to be read in one go: all that it loads, what it shares with the others
// included, and its SQL are at most 150 lines, none of them long.
func TestShort(t *testing.T) {
	for _, e := range All() {
		all := loaded(t, e.Name+"/index.html")
		if e.Schema != "" {
			all = append(all, e.Name+"/schema.sql")
		}
		lines := 0
		for _, name := range all {
			text, err := fs.ReadFile(files, name)
			if err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(string(text)) {
				lines++
				if len([]rune(line)) > 180 {
					t.Errorf("%s has a line of %d characters: %s", name, len([]rune(line)), line)
				}
			}
		}
		t.Logf("%s: %d lines in %v", e.Name, lines, all)
		if lines > 150 {
			t.Errorf("%s has %d lines, 150 are allowed", e.Name, lines)
		}
		entries, err := fs.ReadDir(files, e.Name)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range entries {
			if !slices.Contains(all, e.Name+"/"+f.Name()) {
				t.Errorf("nothing loads %s/%s", e.Name, f.Name())
			}
		}
	}
}

// The list of the examples links each, and says what the command says.
func TestList(t *testing.T) {
	text, err := fs.ReadFile(files, "index.html")
	if err != nil {
		t.Fatal(err)
	}
	loaded(t, "index.html")
	for _, e := range All() {
		if !strings.Contains(string(text), `href="`+e.Name+`/"`) || !strings.Contains(string(text), "pgcast example "+e.Name+"<") {
			t.Errorf("index.html does not show %s", e.Name)
		}
	}
}

// A schema may be made again over one that is in use, and its tick makes something happen.
func TestSchemas(t *testing.T) {
	for _, e := range All() {
		if e.Schema == "" {
			continue
		}
		db := pgtest.New(t, nil)
		db.Exec(t, e.SQL())
		before := pgtest.Value[int](t, db, "select count(*)::int from pgcast.event_log")
		db.Exec(t, e.SQL())
		if again := pgtest.Value[int](t, db, "select count(*)::int from pgcast.event_log"); again != before || before == 0 {
			t.Errorf("%s: %d events after making its schema, %d after making it again", e.Name, before, again)
		}
		if got := pgtest.Value[string](t, db, "select obj_description(to_regnamespace('"+e.Schema+"'), 'pg_namespace')"); !strings.HasPrefix(got, "Made by pgcast example") {
			t.Errorf("%s: its schema is not marked as ours: %q", e.Name, got)
		}
		if e.Tick == "" {
			continue
		}
		db.Exec(t, strings.Repeat(e.Tick+";", 200)) // each kind of thing happens with a chance of 1 in 17 or more
		if got := pgtest.Value[int](t, db, "select count(distinct split_part(topic, ':', 2))::int from pgcast.event_log"); got != 3 {
			t.Errorf("%s: after 200 ticks there are events on %d kinds of topics", e.Name, got)
		}
	}
}
