package replay

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/pgtest"
)

// What cannot be checked is not shown, and is not asked again at once; when it can be, it is.
func TestSecurityFails(t *testing.T) {
	t.Parallel()
	d := newDocuments(t, "")
	d.security.opts.Timeout = 300 * time.Millisecond
	d.db.Exec(t, `insert into public.documents values (1, 'ann', 1, 'of ann')`)
	events := d.events(t, "room:1")
	tests := []struct {
		name, breaks, mends string
		snapshot            bool
	}{
		{"an error", `create or replace function public.me() returns text language plpgsql stable as $$ begin raise 'no'; end $$`, "", true},
		{"an error by the claims", `create or replace function public.me() returns text language sql stable as $$ select (current_setting('request.jwt.claims')::jsonb->>'sub')::int::text $$`, "", true},
		{"a sleep", `create or replace function public.me() returns text language plpgsql stable as $$ begin perform pg_sleep(30); return 'ann'; end $$`, "", false},
		{"no row security", `alter table public.documents disable row level security`, `alter table public.documents enable row level security`, true},
		{"the role may bypass it", `alter role ` + d.role + ` bypassrls`, `alter role ` + d.role + ` nobypassrls`, true},
		{"the role owns it", `alter table public.documents owner to ` + d.role, `alter table public.documents owner to current_user; grant select on public.documents to ` + d.role, true},
		{"no right to a column", `revoke select on public.documents from ` + d.role + `; grant select (id, owner, room) on public.documents to ` + d.role, `grant select on public.documents to ` + d.role, true},
		{"another key", `alter table public.documents drop constraint documents_pkey, add primary key (id, room)`, `alter table public.documents drop constraint documents_pkey, add primary key (id)`, false},
		{"a renamed key", `alter table public.documents rename id to number`, `alter table public.documents rename number to id`, false},
		{"no table", `alter table public.documents rename to papers`, `alter table public.papers rename to documents`, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d.db.Exec(t, tt.breaks)
			if strings.Contains(tt.name, "key") {
				if _, err := d.security.Load(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			lens := d.security.Lens([]byte(ann), "room:1")
			for range 2 {
				got, err := lens.Look(t.Context(), events)
				if !errors.Is(err, pgcast.ErrUnavailable) || got != nil {
					t.Errorf("it gives %q, %v", describe(got), err)
				}
			}
			// A snapshot asks as anew, and waits longer.
			if tt.snapshot {
				if err := lens.Snapshot(t.Context(), "room:1", func(pgcast.Snapshot) error { return nil }, func(r pgcast.Row) error {
					t.Errorf("the snapshot shows %s", r.Data)
					return nil
				}); err == nil {
					t.Error("there is a snapshot")
				}
			}
			d.db.Exec(t, tt.mends+`; create or replace function public.me() returns text language sql stable as $$ select current_setting('request.jwt.claims', true)::jsonb->>'sub' $$`)
			if _, err := d.security.Load(t.Context()); err != nil {
				t.Fatal(err)
			}
			awaitFor(t, within, "it is shown again", func() bool {
				got, err := lens.Look(t.Context(), events)
				return err == nil && got[0] == events[0]
			})
		})
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(d.security.metrics.failed)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	if got := families[0].Metric[0].GetCounter().GetValue(); got < float64(len(tests)) || got > float64(3*len(tests)) {
		t.Errorf("%v failures are counted", got)
	}
}

// Callers with different claims at once: each sees his own, and no connection keeps anything.
func TestSecurityRoleStays(t *testing.T) {
	t.Parallel()
	d := newDocuments(t, "")
	d.db.Exec(t, `insert into public.documents select i, 'user' || i, 1, 'x' from generate_series(1, 100) i`)
	events := d.events(t, "room:1")
	failing := `{"sub":"user1","x":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`
	d.db.Exec(t, `create or replace function public.me() returns text language plpgsql stable as $$ begin
		if current_setting('request.jwt.claims')::jsonb ? 'x' then raise 'no'; end if;
		perform set_config('request.jwt.claims.left', 'behind', false);
		return current_setting('request.jwt.claims')::jsonb->>'sub'; end $$`)
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			claims := fmt.Sprintf(`{"sub":"user%d"}`, i+1)
			lens := d.security.Lens([]byte(claims), "room:1")
			for range 5 {
				got, err := lens.Look(t.Context(), events)
				if err != nil {
					t.Error(err)
					return
				}
				for k, e := range got {
					if (e == events[k]) != (k == i) {
						t.Errorf("%s sees %s", claims, describe(got[k : k+1])[0])
					}
				}
			}
			if i%10 == 0 {
				if _, err := d.security.Lens([]byte(failing), "room:1").Look(t.Context(), events); err == nil {
					t.Error("what fails is shown")
				}
				n := 0
				if err := lens.Snapshot(t.Context(), "room:1", func(pgcast.Snapshot) error { return nil }, func(pgcast.Row) error { n++; return nil }); err != nil || n != 1 {
					t.Errorf("a snapshot of %d rows, %v", n, err)
				}
			}
		})
	}
	wg.Wait()
	var conns []*pgxpool.Conn
	for range d.log.pool.Stat().TotalConns() {
		c, err := d.log.pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
		var left string
		if err := c.QueryRow(t.Context(), `select concat_ws(' ', nullif(current_user, session_user), nullif(current_setting('role'), 'none'), current_setting('request.jwt.claims', true), current_setting('request.jwt.claim.sub', true),
			current_setting('pgcast.claims', true), current_setting('request.jwt.claims.left', true), nullif(current_setting('statement_timeout'), '0'), nullif(current_setting('row_security'), 'on'), nullif(current_setting('transaction_read_only'), 'off'))`).Scan(&left); err != nil || strings.TrimSpace(left) != "" {
			t.Errorf("a connection kept %q, %v", left, err)
		}
	}
	for _, c := range conns {
		c.Release()
	}
	if len(conns) < 2 {
		t.Errorf("only %d connections were used", len(conns))
	}
}

// A snapshot has what the role sees with the claims, in the same moment, whoever the server
// is; and it needs no right to the table itself.
func TestSecuritySnapshot(t *testing.T) {
	t.Parallel()
	d := newDocuments(t, "")
	d.db.Exec(t, `insert into public.documents select i, case when i % 3 = 0 then 'ann' else 'bob' end, i % 2, 'x' from generate_series(1, 1500) i`)
	d.events(t, "room:1")
	for _, who := range []string{"ann", "bob", "nobody"} {
		want := pgtest.Value[[]string](t, d.db, fmt.Sprintf(`select coalesce(array_agg(row_to_json(d)::text), '{}') from public.documents d where owner = '%s' and room = 1`, who))
		got := []string{}
		lens := d.security.Lens([]byte(`{"sub":"`+who+`"}`), "room:1")
		if err := lens.Snapshot(t.Context(), "room:1", func(at pgcast.Snapshot) error {
			if at.AsOf.IsZero() || at.Seq != 750 {
				t.Errorf("it was taken at %+v", at)
			}
			return nil
		}, func(r pgcast.Row) error {
			got = append(got, string(r.Data))
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		slices.Sort(want)
		slices.Sort(got)
		expect(t, who, want, got)
	}
}
