package server

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/auth"
	"github.com/pgcast/pgcast/internal/auth/authtest"
	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/replay"
)

// TestServerRoleAccess runs a server with the rights of its role through all that access control
// asks of the database: rules, API keys, tickets, revocations, and row security as a role that it
// may become, but whose rights it has not otherwise.
func TestServerRoleAccess(t *testing.T) {
	t.Parallel()
	w := newTroupe(t, pgtest.Doorbell, false)
	reader := w.db.Name + "_reader"
	w.exec(w.db.Conn(t), `create role `+reader+`; grant `+reader+` to `+w.deploy.Config().User)
	t.Cleanup(func() {
		conn, err := pgx.Connect(context.Background(), w.db.URL)
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close(context.Background())
		for _, sql := range []string{"drop owned by " + reader, "drop role " + reader} {
			if _, err := conn.Exec(context.Background(), sql); err != nil {
				t.Error(err)
			}
		}
	})
	w.exec(w.deploy, `create table shop.document (id int primary key, owner text, title text, secret text); alter table shop.document enable row level security;
		create policy mine on shop.document for select to `+reader+` using (owner = current_setting('request.jwt.claims', true)::jsonb->>'sub');
		grant usage on schema shop to `+reader+`; grant select on shop.document to `+reader+`; grant insert on shop.document to `+w.roles.Writer+`;
		create policy all_of_it on shop.document for insert to `+w.roles.Writer+` with check (true)`)
	w.exec(w.deploy, `select pgcast.attach('shop.document', topic => 'documents', without => '{secret}')`)
	w.exec(w.deploy, `select pgcast.enforce('shop.document', '`+reader+`', '{sub}'); select pgcast.allow('{subscribe,history,snapshot}', 'documents')`)
	w.apply()
	key := authtest.New(t, "HS256")
	g := &guarded{start(t, w.server, func(o *Options) {
		o.Access = AccessOptions{On: true, Secret: key.Secret(), Leeway: 10 * time.Second}
		o.Wake, o.RetentionEvery = replay.WakeNotify, 100*time.Millisecond
		o.Logger = slog.New(slog.NewTextHandler(w.logged, nil))
	}).awaitReady(t), key}
	ann, bob := g.view(t, g.token(t, "ann"), "documents"), g.view(t, g.token(t, "bob"), "documents")
	w.exec(w.writer, `insert into shop.document values (1, 'ann', 'hers', 'canary')`)
	ann.sees(`1 created {"id":1,"owner":"ann","title":"hers"}`)
	bob.sees(`1 gone  {"id":1}`)
	for who, want := range map[string]string{"ann": `"rows":[{"id":1,"owner":"ann","title":"hers"}]`, "bob": `"tables":[]`} {
		if status, text := g.getAs(t, who, "/topics/documents/snapshot"); status != http.StatusOK || !strings.Contains(text, want) {
			t.Errorf("snapshot for %s: %d %s", who, status, text)
		}
	}

	// Rules of now, keys, tickets, revocations.
	cid := g.who(t, g.token(t, "cid"))
	if g.may(t, cid, auth.Publish, "news") {
		t.Error("cid may publish before there is a rule")
	}
	w.exec(w.deploy, `select pgcast.allow('{publish}', 'news')`)
	soon(t, "cid may publish", func() bool { return g.may(t, cid, auth.Publish, "news") })
	w.exec(w.writer, `select pgcast.recheck('{"sub":"cid"}')`)
	var apiKey string
	if err := w.deploy.QueryRow(t.Context(), `select pgcast.create_api_key('billing', '{publish}', '{news}')`).Scan(&apiKey); err != nil {
		t.Fatal(err)
	}
	if k := g.who(t, apiKey); k.Subject != "key:billing" {
		t.Errorf("the key is %+v", k)
	}
	await(t, "it is noted that the key was used", func() bool {
		return pgtest.Value[int](t, w.db, `select count(*)::int from pgcast.api_key where last_used_at is not null`) == 1
	})
	ticket, err := g.authority.Issue(t.Context(), cid)
	if err != nil {
		t.Fatal(err)
	}
	if c, err := g.authority.Redeem(t.Context(), ticket); err != nil || c.Subject != "cid" {
		t.Errorf("the ticket: %+v, %v", c, err)
	}
	if status, _, text := post(t, "http://"+g.admin+"/access/revoke", `{"sub":"cid"}`); status != http.StatusNoContent {
		t.Errorf("revoke: %d %s", status, text)
	}
	soon(t, "cid is revoked", func() bool {
		_, err := g.authority.Authenticate(t.Context(), g.token(t, "cid", "iat", time.Now().Add(-time.Minute).Unix()))
		return errors.Is(err, pgcast.ErrUnauthenticated)
	})
	if status, text := get(t, "http://"+g.admin+"/access"); status != http.StatusOK || strings.Count(text, `"verbs"`) != 3 {
		t.Errorf("what the server goes by: %d %s", status, text)
	}
	w.mayAll()
	w.healthy(replay.WakeNotify, "durability")
	// It is not the reader until it becomes him.
	server := w.connect(w.roles.Server)
	if _, err := server.Exec(t.Context(), `select secret from shop.document`); err == nil || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("the server reads what its readers may: %v", err)
	}
}
