package server

import (
	"fmt"
	"testing"

	"github.com/pgcast/pgcast/internal/pgtest"
)

// The unmodified browser client of svelte-adapter-uws: its stores show live rows, and go
// on doing so after the connection was dropped.
func TestSvelteAdapterClient(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	db.Exec(t, `create table todo (id int primary key, body text); select pgcast.attach('todo', topic => 'todo')`)
	r := start(t, db.URL, nil).awaitReady(t)

	n := runStores(t, "svelte.mjs", r.listen)
	subscribed := func() {
		t.Helper()
		n.stores(map[string]string{"status": `"open"`})
		await(t, "it is subscribed", func() bool {
			_, text := get(t, "http://"+r.admin+"/metrics")
			return figure(t, text, "pgcast_subscriptions") == 1
		})
	}
	row := func(id int, body string) string { return fmt.Sprintf(`{"id":%d,"body":"%s"}`, id, body) }

	subscribed()
	db.Exec(t, `insert into todo values (1, 'a')`)
	n.stores(map[string]string{"on": `{"topic":"todo","event":"created","data":` + row(1, "a") + `}`, "crud": "[" + row(1, "a") + "]"})
	db.Exec(t, `insert into todo values (2, 'b')`)
	db.Exec(t, `update todo set body = 'c' where id = 1`)
	n.stores(map[string]string{"crud": "[" + row(1, "c") + "," + row(2, "b") + "]"})

	n.tell("")
	n.stores(map[string]string{"status": `"closed"`})
	subscribed()
	db.Exec(t, `delete from todo where id = 1`)
	n.stores(map[string]string{"deleted": `{"data":{"id":1}}`, "crud": "[" + row(2, "b") + "]"})
}
