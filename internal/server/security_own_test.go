package server

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/pgcast/pgcast/internal/pgtest"
)

// Row security of a table whose topics may have any name does not keep the server from
// following what its own topics say.
func TestRowSecurityOfAnyTopic(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	role := secured(t, db, "trigger")
	db.Exec(t, `select pgcast.attach('public.documents', topic => '{owner}', old => true)`)
	g := guard(t, db, 1, nil)[0]
	ann := g.view(t, g.token(t, "ann"), "ann")
	db.Exec(t, `select pgcast.enforce('public.documents', '`+role+`', '{sub}'); insert into public.documents values (1, 'ann', 'hers')`)
	ann.sees(`1 created {"id":1,"owner":"ann","title":"hers"}`)
	await(t, "it is enforced", func() bool {
		return g.Server.security.rows.Tables() == 1
	})
	for i := range 100 { // each of them is decided on
		if status, text := g.getAs(t, "ann", fmt.Sprintf("/topics/bob%d/events", i)); status != http.StatusOK {
			t.Fatalf("%d: %d %s", i, status, text)
		}
	}
	if status, text := g.getAs(t, "bob", "/topics/ann/events"); status != http.StatusOK || text == "" {
		t.Errorf("bob: %d %s", status, text)
	}
}
