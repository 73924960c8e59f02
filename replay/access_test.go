package replay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/db"
	"github.com/pgcast/pgcast/internal/pgtest"
)

// An authorize() of somebody's own decides, for each question by itself: what raises, takes
// too long, gives null or writes allows nothing, and takes nothing from the others.
func TestAccessDecide(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	db.Exec(t, `create table room_member (room text, member text); insert into room_member values ('1', 'ann');
		create or replace function pgcast.authorize(claims jsonb, verb text, topic text) returns boolean
		language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
		begin
			case topic
				when 'raises' then raise exception 'no';
				when 'sleeps' then perform pg_sleep(60);
				when 'null' then return null;
				when 'writes' then insert into public.room_member values ('x', 'y'); return true;
				when 'cast' then return (claims->>'sub')::int > 0;
				else
			end case;
			return exists (select from public.room_member m where topic = 'room:' || m.room and m.member = claims->>'sub');
		end $$`)
	access := NewAccess(db.Pool(t), &AccessOptions{Timeout: 200 * time.Millisecond})
	who := []json.RawMessage{json.RawMessage(`{"sub":"ann"}`), json.RawMessage(`{"sub":"bob"}`)}
	questions := []Question{{0, "subscribe", "room:1"}, {1, "subscribe", "room:1"}, {0, "subscribe", "null"}, {0, "publish", "room:2"}}
	allowed, errs := access.Decide(t.Context(), who, questions)
	if diff := cmp.Diff([]bool{true, false, false, false}, allowed); diff != "" || errors.Join(errs...) != nil {
		t.Errorf("%v\n%s", errs, diff)
	}
	for _, bad := range []string{"raises", "sleeps", "writes", "cast"} {
		allowed, errs := access.Decide(t.Context(), who, append(questions[:2:2], Question{0, "subscribe", bad}, Question{0, "subscribe", "room:1"}))
		if diff := cmp.Diff([]bool{true, false, false, true}, allowed); diff != "" {
			t.Errorf("beside what %s:\n%s", bad, diff)
		}
		for i, err := range errs {
			if (err != nil) != (i == 2) || err != nil && !errors.Is(err, pgcast.ErrUnavailable) {
				t.Errorf("beside what %s, question %d: %v", bad, i, err)
			}
		}
	}
	if n := pgtest.Value[int](t, db, "select count(*)::int from room_member"); n != 1 {
		t.Errorf("deciding wrote: %d rows", n)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if allowed, errs := access.Decide(ended, who, questions[:1]); allowed[0] || !errors.Is(errs[0], pgcast.ErrUnavailable) {
		t.Errorf("after the end: %v, %v", allowed, errs)
	}
	// As it was, once more, with as many questions as may come together.
	questions = nil
	for i := range 500 {
		questions = append(questions, Question{i % 2, "subscribe", fmt.Sprintf("room:%d", i/4)})
	}
	allowed, errs = access.Decide(t.Context(), who, questions)
	for i, a := range allowed {
		if want := i == 4 || i == 6; a != want || errs[i] != nil {
			t.Errorf("question %d: %v, %v", i, a, errs[i])
		}
	}
}

// Where there is a role for it, authorize() sees what that role sees.
func TestAccessRole(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	role := db.Name + "_decides"
	db.Exec(t, fmt.Sprintf(`create role %[1]q; grant usage on schema pgcast to %[1]q; create table secret (id int); create table open (id int); grant select on open to %[1]q;
		create or replace function pgcast.authorize(claims jsonb, verb text, topic text) returns boolean language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
		begin
			if topic = 'secret' then return (select count(*) = 0 from public.secret); end if;
			return not exists (select from public.open) and current_user = %[2]s;
		end $$; grant execute on function pgcast.authorize to %[1]q`, role, "'"+role+"'"))
	defer db.Exec(t, fmt.Sprintf(`drop owned by %[1]q; drop role %[1]q`, role))
	pool := db.Pool(t)
	access := NewAccess(pool, &AccessOptions{Role: role})
	for range 3 {
		allowed, errs := access.Decide(t.Context(), []json.RawMessage{json.RawMessage(`{}`)}, []Question{{0, "subscribe", "open"}, {0, "subscribe", "secret"}})
		if !allowed[0] || errs[0] != nil || allowed[1] || !errors.Is(errs[1], pgcast.ErrUnavailable) {
			t.Fatalf("%v %v", allowed, errs)
		}
	}
	var user string
	if err := pool.QueryRow(t.Context(), "select current_user || current_setting('statement_timeout')").Scan(&user); err != nil || user != "postgres0" {
		t.Errorf("after deciding the connection is %s, %v", user, err)
	}
}

// A ticket stands for its caller once, also where two servers are brought it at once.
func TestTicketOnce(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	servers := []*Access{NewAccess(db.Pool(t), nil), NewAccess(db.Pool(t), nil)}
	for i := range 50 {
		ticket := fmt.Sprint("ticket", i)
		if err := servers[0].IssueTicket(t.Context(), ticket, json.RawMessage(`{"a":1}`), time.Minute); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		got := make([]error, 8)
		for n := range got {
			wg.Go(func() {
				var text json.RawMessage
				if text, got[n] = servers[n%2].RedeemTicket(t.Context(), ticket); got[n] == nil && string(text) != `{"a":1}` {
					t.Errorf("the ticket stands for %s", text)
				}
			})
		}
		wg.Wait()
		n := 0
		for _, err := range got {
			if err == nil {
				n++
			} else if !errors.Is(err, pgcast.ErrUnauthenticated) {
				t.Error(err)
			}
		}
		if n != 1 {
			t.Fatalf("a ticket was redeemed %d times", n)
		}
	}
	if err := servers[0].IssueTicket(t.Context(), "late", json.RawMessage(`{}`), time.Microsecond); err != nil {
		t.Fatal(err)
	}
	if _, err := servers[1].RedeemTicket(t.Context(), "late"); !errors.Is(err, pgcast.ErrUnauthenticated) {
		t.Errorf("an expired ticket: %v", err)
	}
	if n := pgtest.Value[int](t, db, "select count(*)::int from pgcast.ticket where claims::text like '%ticket%' or hash::text like '%ticket%'"); n != 0 {
		t.Error("tickets are stored as they are")
	}
}

func TestAPIKeys(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	access, ctx := NewAccess(db.Pool(t), nil), t.Context()
	text, err := access.CreateKey(ctx, Key{Name: "billing", Verbs: []string{"publish"}, Topics: []string{"invoice:**"}, Claims: json.RawMessage(`{"a":1}`)})
	if err != nil {
		t.Fatal(err)
	}
	var id string
	if _, err := fmt.Sscanf(text, "pgk_%16s", &id); err != nil || len(text) != 4+16+1+64 {
		t.Fatalf("%q: %v", text, err)
	}
	k, err := access.Key(ctx, id)
	if err != nil || k.Revoked || !k.Expires.IsZero() || k.Name != "billing" || string(k.Claims) != `{"a": 1}` || len(k.Hash) != 32 {
		t.Fatalf("%+v, %v", k, err)
	}
	if n := pgtest.Value[int](t, db, "select count(*)::int from pgcast.api_key k where hash = sha256($1::text::bytea) and to_json(k)::text not like '%' || split_part($1::text, '_', 3) || '%'", text); n != 1 {
		t.Error("the key is stored as it is, or its hash is another one's")
	}
	if err := access.Used(ctx, id); err != nil {
		t.Error(err)
	}
	if used := pgtest.Value[bool](t, db, "select last_used_at is not null from pgcast.api_key"); !used {
		t.Error("that it was used was not noted")
	}
	for _, want := range []bool{true, false} {
		if done, err := access.RevokeKey(ctx, id); done != want || err != nil {
			t.Errorf("revoke: %v, %v; want %v", done, err, want)
		}
	}
	if k, err := access.Key(ctx, id); err != nil || !k.Revoked {
		t.Errorf("%+v, %v", k, err)
	}
	e := new(pgcast.Error)
	if _, err := access.Key(ctx, "nobody"); !errors.As(err, &e) || e.Code != pgcast.CodeNotFound {
		t.Errorf("no key: %v", err)
	}
	if _, err := access.CreateKey(ctx, Key{Name: "x"}); !errors.As(err, &e) || e.Code != pgcast.CodeInvalid {
		t.Errorf("a key for nothing: %v", err)
	}
}

// What retention takes of access: revocations and tickets that have ended, and what the
// servers were told more than a day ago.
func TestAccessRetention(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, nil)
	access, ctx := NewAccess(d.Pool(t), nil), t.Context()
	for kind, value := range map[string]string{"sub": "ann", "jti": "1", "session": "2"} {
		if err := access.Revoke(ctx, kind, value, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	if e := new(pgcast.Error); !errors.As(access.Revoke(ctx, "name", "x", time.Hour), &e) || e.Code != pgcast.CodeInvalid {
		t.Error("something else was revoked")
	}
	list, err := access.Revocations(ctx, 0)
	if err != nil || len(list) != 3 || list[0].Until.Sub(list[0].At) < time.Hour-time.Second {
		t.Errorf("%+v, %v", list, err)
	}
	d.Exec(t, "update pgcast.revocation set until = now() - interval '2 hours' where kind = 'sub'; insert into pgcast.ticket values ('a', '{}', now() - interval '1 s'), ('b', '{}', now() + interval '1 h')")
	pool := d.Pool(t)
	q := db.New(pool)
	if n, err := q.RevocationExpired(ctx); n != 1 || err != nil {
		t.Errorf("%d revocations went, %v", n, err)
	}
	if n, err := q.TicketExpired(ctx); n != 1 || err != nil {
		t.Errorf("%d tickets went, %v", n, err)
	}
	for topic, want := range map[string]float64{"__access": 24 * 60 * 60, "news": 0} {
		if got := (rules{}).of(topic).maxAge; got != want {
			t.Errorf("%s is kept for %v s; want %v", topic, got, want)
		}
	}
}
