package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/client"
	"github.com/pgcast/pgcast/internal/pgtest"
)

func named(name string) *client.Options {
	return &client.Options{User: json.RawMessage(fmt.Sprintf(`{"id":%q,"name":%q}`, name, name))}
}

// until iterates changes until there is what is waited for.
func until[V any](t *testing.T, what string, seq func(func(client.Change[string, V], error) bool), there func(map[string]V) bool) {
	t.Helper()
	all := map[string]V{}
	for change, err := range seq {
		if err != nil {
			t.Fatalf("waiting for %s, with %v: %v", what, all, err)
		}
		if change.Gone {
			delete(all, change.Key)
		} else {
			all[change.Key] = change.Value
		}
		if there(all) {
			return
		}
	}
}

// Who joins is there for others, also after its connection broke, until it leaves.
func TestPresence(t *testing.T) {
	t.Parallel()
	address := serve(t, pgtest.New(t, nil))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	ann, bob := start(t, address, named("ann")), start(t, address, nil)
	here, there := ann.Topic("room:1", nil).Presence(), bob.Topic("room:1", nil).Presence()
	if key, err := here.Join(ctx, nil); err != nil || key != "ann" {
		t.Fatalf("joined as %q, %v", key, err)
	}
	until(t, "Ann", there.Changes(ctx), func(all map[string]json.RawMessage) bool { return len(all) == 1 })
	if key, err := there.Join(ctx, map[string]string{"id": "bob", "name": "Bob"}); err != nil || key != "bob" {
		t.Fatalf("joined as %q, %v", key, err)
	}
	if n, err := there.Count(ctx); err != nil || n != 2 {
		t.Errorf("%d are here, %v", n, err)
	}
	list, err := here.List(ctx)
	if err != nil || string(list["bob"]) != `{"id":"bob","name":"Bob"}` {
		t.Errorf("here are %s, %v", list, err)
	}
	until(t, "both", here.Changes(ctx), func(all map[string]json.RawMessage) bool { return len(all) == 2 })
	before := bob.Stats().Connects
	bob.Cut()
	for s := range bob.StatusChanges(ctx) {
		if s.State == client.Online && bob.Stats().Connects > before {
			break
		}
	}
	if err := here.Leave(ctx); err != nil {
		t.Fatal(err)
	}
	until(t, "Bob alone", there.Changes(ctx), func(all map[string]json.RawMessage) bool { return len(all) == 1 && all["bob"] != nil })
	until(t, "Bob alone, from outside", here.Changes(ctx), func(all map[string]json.RawMessage) bool { return len(all) == 1 && all["bob"] != nil })
	if all := here.All(); len(all) != 0 {
		t.Errorf("nobody asks, and %s are here", all)
	}
	if _, err := ann.Topic("room:*", nil).Presence().Count(ctx); err == nil {
		t.Error("counted who is on a pattern")
	}
}

// A cursor is seen by others where it is, whatever happens to connections and subscriptions.
func TestCursors(t *testing.T) {
	t.Parallel()
	address := serve(t, pgtest.New(t, nil))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	ann, bob := start(t, address, named("ann")), start(t, address, nil)
	board := ann.Topic("board:1", nil)
	mine, others := board.Cursors(), bob.Topic("board:1", nil).Cursors()
	at := func(n int) func(map[string]client.Cursor) bool {
		return func(all map[string]client.Cursor) bool {
			for _, o := range all {
				if string(o.Data) == fmt.Sprintf(`{"x":%d}`, n) && string(o.User) == `{"id":"ann","name":"ann"}` {
					return len(all) == 1
				}
			}
			return false
		}
	}
	move := func(n int) {
		t.Helper()
		if err := mine.Move(map[string]int{"x": n}); err != nil {
			t.Fatal(err)
		}
	}
	for n := range 1000 {
		move(n)
	}
	until(t, "the newest place", others.Changes(ctx), at(999))
	for it, err := range board.Items(ctx) { // whose end takes the cursor away
		if err != nil {
			t.Fatalf("%v, %v", it, err)
		}
		break
	}
	move(1000)
	until(t, "it again", others.Changes(ctx), at(1000))
	ann.Cut()
	move(1001)
	until(t, "it after the cut", others.Changes(ctx), at(1001))
	if len(mine.All()) != 0 {
		t.Errorf("its own: %v", mine.All())
	}
	left := false
	until(t, "its end", others.Changes(ctx), func(all map[string]client.Cursor) bool {
		if !left && len(all) == 1 {
			mine.Leave()
			left = true
		}
		return left && len(all) == 0
	})
	for _, bad := range []any{nil, make([]byte, 5000), json.RawMessage("{")} {
		if err := mine.Move(bad); !errors.Is(err, &pgcast.Error{Code: pgcast.CodeInvalid}) {
			t.Errorf("moved to %v: %v", bad, err)
		}
	}
}

// A group keeps who is in it through cuts; its messages reach members, its end all of them.
func TestGroup(t *testing.T) {
	t.Parallel()
	address := serve(t, pgtest.New(t, nil))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	ann, bob := start(t, address, named("ann")), start(t, address, named("bob"))
	hers, his := ann.Group("lobby"), bob.Group("lobby")
	if created, err := hers.Create(ctx, 2, map[string]string{"game": "chess"}); err != nil || !created {
		t.Fatalf("created: %v, %v", created, err)
	}
	if m, err := hers.Join(ctx, "admin"); err != nil || m.Key != "ann" || m.Role != "admin" || m.Max != 2 {
		t.Fatalf("joined as %+v, %v", m, err)
	}
	if _, err := his.Join(ctx, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := start(t, address, named("cid")).Group("lobby").Join(ctx, ""); !errors.Is(err, pgcast.ErrTooMany) {
		t.Errorf("a third joined: %v", err)
	}
	both := func(all map[string]client.Member) bool { return len(all) == 2 }
	until(t, "both", hers.Changes(ctx), both)
	bob.Cut()
	until(t, "both again", his.Changes(ctx), both)
	if r, err := hers.List(ctx); err != nil || len(r.Members) != 2 || r.Max != 2 || r.Closed {
		t.Errorf("the roster is %+v, %v", r, err)
	}
	got, end := make(chan client.GroupMessage, 1), make(chan error, 1)
	go func() {
		for m, err := range his.Messages(ctx) {
			if err != nil {
				end <- err
				return
			}
			select {
			case got <- m:
			default:
			}
		}
	}()
	for received := false; !received; { // it may not listen yet
		if err := hers.Send(ctx, client.GroupMessage{Event: "nudge", Data: json.RawMessage(`"your turn"`), Member: "bob"}); err != nil {
			t.Fatal(err)
		}
		select {
		case m := <-got:
			if m.Event != "nudge" || string(m.Data) != `"your turn"` {
				t.Errorf("got %+v", m)
			}
			received = true
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			t.Fatal("no message")
		}
	}
	if err := hers.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-end; !errors.Is(err, &pgcast.Error{Code: pgcast.CodeClosed}) {
		t.Errorf("messages ended with %v", err)
	}
	if len(his.All()) != 0 {
		t.Errorf("%v are in a closed group", his.All())
	}
}
