package server

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/client"
	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/internal/wire"
)

// secured is a database with a table of documents that their owners see, and members of
// rooms; the policy is for a role.
func secured(t testing.TB, db *pgtest.DB, capture string) (role string) {
	t.Helper()
	role = "reader_" + db.Name
	db.Exec(t, "create role "+role)
	t.Cleanup(func() {
		conn, err := pgx.Connect(context.Background(), db.URL)
		if err == nil {
			_, err = conn.Exec(context.Background(), "drop owned by "+role+"; drop role "+role)
			_ = conn.Close(context.Background())
		}
		if err != nil {
			t.Error(err)
		}
	})
	db.Exec(t, `create table public.documents (id bigint primary key, owner text not null, title text);
		alter table public.documents replica identity full;
		alter table public.documents enable row level security;
		create policy mine on public.documents for select to `+role+`
			using (owner = current_setting('request.jwt.claims', true)::jsonb->>'sub');
		grant select on public.documents to `+role+`;
		select pgcast.allow('{subscribe,history,snapshot}', '**')`)
	if capture == "wal" {
		db.Exec(t, `select pgcast.open_slot()`)
	}
	db.Exec(t, `select pgcast.attach('public.documents', topic => 'documents', old => true, capture => '`+capture+`')`)
	return role
}

// viewer is a client that notes what it is sent.
type viewer struct {
	t      testing.TB
	mu     sync.Mutex
	lines  []string
	seqs   []pgcast.Seq
	client *client.Client
}

// view subscribes somebody to topics.
func (g *guarded) view(t *testing.T, token string, topics ...string) *viewer {
	t.Helper()
	v := &viewer{t: t, client: client.New("ws://"+g.listen, &client.Options{Token: func(context.Context) (string, error) { return token, nil }, Logger: discard, MaxBackoff: 200 * time.Millisecond})}
	for _, topic := range topics {
		if err := v.client.Subscribe(topic, nil); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{}, 2)
	go func() { _ = v.client.Run(ctx); done <- struct{}{} }()
	go func() {
		defer func() { done <- struct{}{} }()
		for item, err := range v.client.Items(ctx) {
			if err != nil {
				return
			}
			v.mu.Lock()
			switch it := item.(type) {
			case client.Event:
				v.seqs = append(v.seqs, it.Seq)
				v.lines = append(v.lines, strings.TrimSpace(fmt.Sprintf("%d %s %s %s", it.Seq, it.Name, it.Data, it.Old)))
			default:
				v.lines = append(v.lines, fmt.Sprintf("%T", item))
			}
			v.mu.Unlock()
		}
	}()
	t.Cleanup(func() { cancel(); <-done; <-done })
	await(t, "it is subscribed", func() bool { return len(v.all()) == len(topics) })
	return v
}

// sees waits until the newest of what was sent is this.
func (v *viewer) sees(want string) {
	v.t.Helper()
	var last string
	deadline := time.Now().Add(within)
	for time.Now().Before(deadline) {
		v.mu.Lock()
		if len(v.lines) > 0 {
			last = v.lines[len(v.lines)-1]
		}
		v.mu.Unlock()
		if last == want {
			return
		}
		<-time.After(5 * time.Millisecond)
	}
	v.t.Fatalf("the newest is %q, and not %q", last, want)
}

func (v *viewer) all() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.lines)
}

// Who sees what of a table is what its policies say, live, over HTTP and in snapshots, however
// its writes are captured.
func TestRowSecurity(t *testing.T) {
	t.Parallel()
	for capture, kind := range map[string]pgtest.Kind{"trigger": pgtest.Doorbell, "wal": pgtest.Logical} {
		t.Run(capture, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t, &pgtest.Options{Kind: kind})
			role := secured(t, db, capture)
			db.Exec(t, `select pgcast.enforce('public.documents', '`+role+`', '{sub}')`)
			g := guard(t, db, 1, nil)[0]
			ann, bob := g.view(t, g.token(t, "ann"), "documents"), g.view(t, g.token(t, "bob"), "*")
			db.Exec(t, `insert into public.documents values (1, 'ann', 'hers')`)
			ann.sees(`1 created {"id":1,"owner":"ann","title":"hers"}`)
			bob.sees(`1 gone  {"id":1}`)
			db.Exec(t, `update public.documents set owner = 'bob', title = 'his'`)
			ann.sees(`2 gone  {"id":1}`)
			bob.sees(`2 updated {"id":1,"owner":"bob","title":"his"} {"id":1,"owner":"ann","title":"hers"}`)
			db.Exec(t, `insert into public.documents values (2, 'ann', 'another'); delete from public.documents where id = 1`)
			ann.sees(`4 gone  {"id":1}`)
			bob.sees(`4 gone  {"id":1}`)
			for who, want := range map[string]string{
				"ann": `[{"gone":{"id":1}},{"gone":{"id":1}},{"created":{"id":2,"owner":"ann","title":"another"}},{"gone":{"id":1}}]`,
				"bob": `[{"gone":{"id":1}},{"gone":{"id":1}},{"gone":{"id":2}},{"gone":{"id":1}}]`,
			} {
				if got := g.history(t, who, "documents"); got != want {
					t.Errorf("history for %s: %s", who, got)
				}
			}
			for who, want := range map[string]string{"ann": `"rows":[{"id":2,"owner":"ann","title":"another"}]`, "bob": `"tables":[]`} {
				if status, text := g.getAs(t, who, "/topics/documents/snapshot"); status != http.StatusOK || !strings.Contains(text, want) {
					t.Errorf("snapshot for %s: %d %s", who, status, text)
				}
			}
			// A filter selects of what is shown, and tells nothing of what is not.
			filtered := "/topics/documents/events?filter=" + url.QueryEscape("title in ('hers', 'his', 'another')")
			if status, text := g.getAs(t, "ann", filtered); status != http.StatusOK || !strings.Contains(text, "another") {
				t.Errorf("ann's through a filter: %d %s", status, text)
			}
			if status, text := g.getAs(t, "bob", filtered); status != http.StatusOK || strings.Contains(text, "hers") || strings.Contains(text, "owner") || !strings.Contains(text, `"event":"gone"`) {
				t.Errorf("bob's through a filter: %d %s", status, text)
			}
			p := g.dial(t)
			p.send(`{"type":"hello","token":"` + g.token(t, "bob") + `"}`)
			p.send(`{"type":"subscribe","topic":"documents","ref":1,"snapshot":true}`)
			if f := p.want("snapshot"); len(f.Rows) > 0 {
				t.Errorf("bob's snapshot has %s", f.Rows)
			}
			p.send(`{"type":"replay","topic":"documents","reqId":1,"since":0}`)
			p.send(`{"type":"history","topic":"documents","after":0,"ref":2}`)
			if f := p.want("history"); len(f.Events) != 4 || slices.ContainsFunc(f.Events, func(e pgcast.Event) bool { return e.Name != pgcast.Gone || e.Data != nil && string(e.Data) != "null" }) {
				t.Errorf("bob's history frame: %+v", f.Events)
			}
		})
	}
}

func (g *guarded) getAs(t *testing.T, who, path string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+g.listen+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+g.token(t, who))
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(text)
}

// history gives what somebody sees of a topic's, as [{"event": row or key}].
func (g *guarded) history(t *testing.T, who, topic string) string {
	t.Helper()
	status, text := g.getAs(t, who, "/topics/"+topic+"/events")
	var answer struct {
		Events []struct {
			Event     string
			Data, Old json.RawMessage
		}
	}
	if err := json.Unmarshal([]byte(text), &answer); err != nil || status != http.StatusOK {
		t.Fatalf("history: %d %s", status, text)
	}
	list := []map[string]json.RawMessage{}
	for _, e := range answer.Events {
		row := e.Data
		if e.Event == pgcast.Gone {
			row = e.Old
			if e.Data != nil && string(e.Data) != "null" {
				t.Errorf("gone, with %s", e.Data)
			}
		}
		list = append(list, map[string]json.RawMessage{e.Event: row})
	}
	b, _ := json.Marshal(list)
	return string(b)
}

// Nobody is shown anything any more by what held before, a second after it has changed: the
// policies, whether they are enforced at all, and the caller's claims.
func TestRowSecurityChanges(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	role := secured(t, db, "trigger")
	servers := guard(t, db, 2, nil)
	ann, bob := servers[0].view(t, servers[0].token(t, "ann"), "documents"), servers[1].view(t, servers[1].token(t, "bob", "org", 1), "documents")
	db.Exec(t, `insert into public.documents values (1, 'ann', 'hers')`)
	ann.sees(`1 created {"id":1,"owner":"ann","title":"hers"}`)
	bob.sees(`1 created {"id":1,"owner":"ann","title":"hers"}`) // nothing is enforced yet
	seq, id := 1, 1
	// shown writes rows of ann's for a second after a change, and then one that counts.
	shown := func(change string) (toAnn, toBob bool) {
		t.Helper()
		db.Exec(t, change)
		for end := time.Now().Add(time.Second); time.Now().Before(end); {
			id++
			seq++
			db.Exec(t, `insert into public.documents values ($1, 'ann', 'hers')`, id)
		}
		id++
		seq++
		db.Exec(t, `insert into public.documents values ($1, 'ann', 'hers')`, id)
		created, gone := fmt.Sprintf(`%d created {"id":%d,"owner":"ann","title":"hers"}`, seq, id), fmt.Sprintf(`%d gone  {"id":%d}`, seq, id)
		last := func(v *viewer) (text string) {
			await(t, "the newest comes", func() bool {
				list := v.all()
				text = list[len(list)-1]
				return text == created || text == gone
			})
			return text
		}
		return last(ann) == created, last(bob) == created
	}
	for _, tt := range []struct {
		name, change string
		toAnn, toBob bool
	}{
		{"enforced", `select pgcast.enforce('public.documents', '` + role + `', '{sub}')`, true, false},
		{"a policy more", `create policy all_of_them on public.documents for select to ` + role + ` using (true)`, true, true},
		{"and less", `drop policy all_of_them on public.documents; drop policy mine on public.documents`, false, false},
		{"by other claims", `create policy of_org on public.documents for select to ` + role + ` using (current_setting('request.jwt.claims')::jsonb->>'org' = '1')`, false, false},
		{"which count", `select pgcast.enforce('public.documents', '` + role + `', '{sub,org}')`, false, true},
		{"not enforced", `select pgcast.unenforce('public.documents')`, true, true},
	} {
		if toAnn, toBob := shown(tt.change); toAnn != tt.toAnn || toBob != tt.toBob {
			t.Errorf("%s: shown to ann %t, to bob %t; want %t, %t", tt.name, toAnn, toBob, tt.toAnn, tt.toBob)
		}
	}
	for who, v := range map[string]*viewer{"ann": ann, "bob": bob} {
		v.mu.Lock()
		for i, n := range v.seqs {
			if int(n) != i+1 {
				t.Errorf("%s got %d after %d", who, n, i)
				break
			}
		}
		v.mu.Unlock()
	}
}

// With another token of the same claims a session goes on; with other claims it has to come
// back, for it is being shown rows by the old ones.
func TestRowSecurityClaims(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	role := secured(t, db, "trigger")
	db.Exec(t, `alter policy mine on public.documents using (current_setting('request.jwt.claims')::jsonb->>'org' = owner); select pgcast.enforce('public.documents', '`+role+`', '{org}')`)
	g := guard(t, db, 1, nil)[0]
	db.Exec(t, `insert into public.documents values (1, 'a', '')`)
	p := g.dial(t)
	p.send(`{"type":"hello","token":"` + g.token(t, "ann", "org", "a") + `"}`)
	p.send(`{"type":"subscribe","topic":"documents","ref":1,"after":0}`)
	if f := p.want(wire.Event); f.Events[0].Name != pgcast.Created {
		t.Errorf("with org a: %+v", f.Events)
	}
	p.send(`{"type":"auth","ref":2,"token":"` + g.token(t, "ann", "org", "a", "team", 2) + `"}`)
	p.want("authenticated")
	p.send(`{"type":"auth","ref":3,"token":"` + g.token(t, "ann", "org", "b") + `"}`)
	if code, reason := p.closed(); code != 4408 {
		t.Errorf("with other claims it is closed with %d %q", code, reason)
	}
	p = g.dial(t)
	p.send(`{"type":"hello","token":"` + g.token(t, "ann", "org", "b") + `"}`)
	p.send(`{"type":"subscribe","topic":"documents","ref":1,"after":0}`)
	if f := p.want(wire.Event); f.Events[0].Name != pgcast.Gone {
		t.Errorf("with org b: %+v", f.Events)
	}
}
