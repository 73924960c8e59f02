package replay

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/pgtest"
)

// Once rows are known by another key nobody is shown any by the key of before.
func TestSecurityOtherKey(t *testing.T) {
	t.Parallel()
	d := newDocuments(t, "")
	d.db.Exec(t, `insert into public.documents values (1, 'ann', 2, 'of ann'), (2, 'bob', 1, 'of bob')`)
	before, events := d.security.Lens([]byte(ann), "room:1"), d.events(t, "room:1")
	d.db.Exec(t, `alter table public.documents drop constraint documents_pkey, add primary key (room);
		select pgcast.attach('public.documents', topic => 'room:{room}', old => true); select pgcast.enforce('public.documents', '`+d.role+`')`)
	if _, err := d.security.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Room 2 is ann's, and was asked about as number 2.
	if got, err := before.Look(t.Context(), events); !errors.Is(err, pgcast.ErrUnavailable) {
		t.Errorf("it shows %q, %v", describe(got), err)
	}
	expect(t, "by the new key", []string{`1 gone  {"room":1}`}, d.seen(t, ann, "room:1"))
}

// What fails is not tried once for each topic by those who waited for it.
func TestSecurityFailsOnce(t *testing.T) {
	t.Parallel()
	d := newDocuments(t, "")
	d.security = NewSecurity(d.log, &SecurityOptions{Timeout: 300 * time.Millisecond, Checks: 1, Logger: discard})
	if _, err := d.security.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.db.Exec(t, `insert into public.documents select i, 'ann', i, '' from generate_series(1, 8) i;
		create or replace function public.me() returns text language plpgsql stable as $$ begin perform pg_sleep(30); return 'ann'; end $$`)
	var wg sync.WaitGroup
	for i := range 8 {
		topic := fmt.Sprintf("room:%d", i+1)
		events := d.events(t, topic)
		wg.Go(func() {
			if got, err := d.security.Lens([]byte(ann), topic).Look(t.Context(), events); !errors.Is(err, pgcast.ErrUnavailable) {
				t.Errorf("%s: %q, %v", topic, describe(got), err)
			}
		})
	}
	wg.Wait()
	reg := prometheus.NewRegistry()
	reg.MustRegister(d.security.metrics.failed)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	if n := families[0].Metric[0].GetCounter().GetValue(); n > 2 {
		t.Errorf("%v checks failed", n)
	}
}

// Events that no policy is about are shown without asking anybody.
func TestSecurityTry(t *testing.T) {
	t.Parallel()
	d := newDocuments(t, "")
	chat, room := &pgcast.Event{Topic: "chat:1", Name: "said"}, &pgcast.Event{Topic: "room:1", Name: "said"}
	lens := d.security.Lens([]byte(ann), "**")
	if got, ok := lens.Try([]*pgcast.Event{chat}); !ok || len(got) != 1 || got[0] != chat {
		t.Errorf("%v, %t", got, ok)
	}
	if _, ok := lens.Try([]*pgcast.Event{chat, room}); ok {
		t.Error("rows are shown unasked")
	}
	if _, ok := NewSecurity(d.log, nil).Lens([]byte(ann), "**").Try([]*pgcast.Event{chat}); ok {
		t.Error("before anything is known events are shown")
	}
}

// A table that has lost its key shows nothing to anybody, and keeps none of the others from
// being shown.
func TestSecurityNoKey(t *testing.T) {
	t.Parallel()
	d := newDocuments(t, "")
	d.db.Exec(t, `create table public.papers (id int primary key, owner text);
		alter table public.papers enable row level security;
		create policy mine on public.papers for select to `+d.role+` using (owner = me());
		grant select on public.papers to `+d.role+`;
		select pgcast.attach('public.papers', topic => 'papers'), pgcast.enforce('public.papers', '`+d.role+`');
		insert into public.papers values (1, 'ann'); insert into public.documents values (1, 'ann', 1, '')`)
	papers := d.events(t, "papers")
	d.db.Exec(t, `alter table public.papers drop column id`)
	if _, err := d.security.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	problem := pgtest.Value[string](t, d.db, `select problem from pgcast.enforced() where name like '%papers'`)
	if got, err := d.security.Lens([]byte(ann), "papers").Look(t.Context(), papers); !errors.Is(err, pgcast.ErrUnavailable) || problem == "" {
		t.Errorf("papers: %q, %v; %q", describe(got), err, problem)
	}
	expect(t, "documents", []string{`1 created {"id":1,"owner":"ann","room":1,"body":""}`}, d.seen(t, ann, "room:1"))
}
