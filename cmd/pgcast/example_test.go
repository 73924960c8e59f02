package main

import (
	"net/http"
	"strings"
	"syscall"
	"testing"
)

// TestExample sets the examples up in a running dev, which serves their pages.
func TestExample(t *testing.T) {
	t.Parallel()
	needPostgres(t)
	s := newShell(t)
	for _, name := range exampleNames() {
		if out := s.run(t, "example").ok(t); !strings.Contains(out, "\n"+name+"\t") {
			t.Errorf("the list lacks %s:\n%s", name, out)
		}
	}
	s.run(t, "example", "chat").fails(t, 1, "none runs here", "start it in another terminal")
	s.run(t, "example", "kanban", "--remove").fails(t, 1, "none runs here")
	s.run(t, "example", "kanbann").fails(t, 2, `no example "kanbann"`, "did you mean kanban?")
	s.run(t, "example", "--remove").fails(t, 2, "--remove needs the name")

	startDev(t, s, "--no-demo")
	url := readDevFile(t, s).URL + "examples/"
	for _, name := range []string{"chat", "board", "kanban", "kanban"} {
		if got := s.run(t, "example", name).ok(t); got != url+name+"/" {
			t.Errorf("example %s printed %s", name, got)
		}
	}
	for _, path := range []string{"", "chat/", "board/", "kanban/", "ops/", "kanban/schema.sql"} {
		resp, err := http.Get(url + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
	if got := s.run(t, "sql", "select count(*) from example_kanban.cards").ok(t); got != "count\n5" {
		t.Errorf("after making it twice: %s", got)
	}

	// One that has people of its own goes on until it is told to stop.
	p := s.start(t, "example", "ops")
	eventually(t, "the example writes", func() bool {
		return strings.HasSuffix(s.run(t, "sql", "select count(*) > 20 from pgcast.history where topic = 'ops:services'").out, "\nt\n")
	})
	if code := p.stop(syscall.SIGINT); code != 0 {
		t.Errorf("Ctrl-C gave exit code %d", code)
	}

	for _, says := range []string{"schema example_kanban is gone", "there is no schema example_kanban"} {
		if r := s.run(t, "example", "kanban", "--remove"); r.code != 0 || !strings.Contains(r.err, says) {
			t.Errorf("--remove:\n%s", r)
		}
	}
	if got := s.run(t, "sql", "select count(*) from pgcast.attachment where relation::text like 'example_kanban%'").ok(t); got != "count\n0" {
		t.Errorf("after --remove still attached: %s", got)
	}
	s.run(t, "example", "chat", "--remove").ok(t)

	// A schema of that name that somebody else made is left alone.
	s.run(t, "sql", "create schema example_kanban; create table example_kanban.mine ()").ok(t)
	for _, args := range [][]string{{"example", "kanban"}, {"example", "kanban", "--remove"}} {
		s.run(t, args...).fails(t, 1, "a schema example_kanban that is not pgcast's", "another database")
	}
	s.run(t, "sql", "select from example_kanban.mine").ok(t)
}
