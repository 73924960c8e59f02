package replay

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/pgtest"
)

func TestGroup(t *testing.T) {
	t.Parallel()
	log, ctx := NewLog(pgtest.New(t, nil).Pool(t), nil), t.Context()
	is := func(want pgcast.Group) {
		t.Helper()
		got, err := log.Group(ctx, want.Name)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%v\n%s", err, diff)
		}
	}
	code := func(err error, want pgcast.Code) {
		t.Helper()
		if e := new(pgcast.Error); !errors.As(err, &e) || e.Code != want {
			t.Errorf("got %v; want %s", err, want)
		}
	}
	_, err := log.Group(ctx, "lobby")
	code(err, pgcast.CodeNotFound)
	code(log.ChangeGroup(ctx, "lobby", pgcast.GroupChange{Close: true}), pgcast.CodeNotFound)
	for i, want := range []bool{true, false} {
		if created, err := log.CreateGroup(ctx, "lobby", 50+i, nil); created != want || err != nil {
			t.Errorf("create: %v, %v; want %v", created, err, want)
		}
	}
	g := pgcast.Group{Name: "lobby", Max: 50, Roles: []string{"member", "admin", "viewer"}, Meta: json.RawMessage("{}")}
	is(g)
	_, err = log.CreateGroup(ctx, "other", 1, json.RawMessage(`[]`))
	code(err, pgcast.CodeInvalid)
	_, err = log.CreateGroup(ctx, "other", 1, json.RawMessage(`{"a":"\u0000"}`))
	code(err, pgcast.CodeInvalid)

	none := 0
	if err := log.ChangeGroup(ctx, "lobby", pgcast.GroupChange{Meta: json.RawMessage(`{"a":1}`)}); err != nil {
		t.Error(err)
	}
	g.Meta = json.RawMessage(`{"a": 1}`)
	is(g)
	if err := log.ChangeGroup(ctx, "lobby", pgcast.GroupChange{Max: &none}); err != nil {
		t.Error(err)
	}
	g.Max = 0
	is(g)
	if err := log.ChangeGroup(ctx, "lobby", pgcast.GroupChange{Close: true}); err != nil {
		t.Error(err)
	}
	g.Closed = true
	is(g)
	code(log.ChangeGroup(ctx, "lobby", pgcast.GroupChange{Close: true}), pgcast.CodeClosed)
	code(log.ChangeGroup(ctx, "lobby", pgcast.GroupChange{Max: &none}), pgcast.CodeClosed)

	log.pool.Close()
	_, err = log.Group(ctx, "lobby")
	code(err, pgcast.CodeUnavailable)
}
