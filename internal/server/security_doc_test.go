package server

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast/internal/pgtest"
)

// The example of docs/row-security.md does what it says.
func TestRowSecurityDoc(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/row-security.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(page), "```sql\n")
	text, _, _ = strings.Cut(text, "```")
	db := pgtest.New(t, nil)
	// Roles are the whole cluster's.
	role, server := "reader_"+db.Name, "server_"+db.Name
	text = strings.NewReplacer("authenticated", role, "pgcast_server", server).Replace(text)
	t.Cleanup(func() {
		conn, err := pgx.Connect(context.Background(), db.URL)
		if err == nil {
			_, err = conn.Exec(context.Background(), "drop owned by "+role+", "+server+"; drop role "+role+", "+server)
			_ = conn.Close(context.Background())
		}
		if err != nil {
			t.Error(err)
		}
	})
	db.Exec(t, "create role "+server+"; "+text)
	g := guard(t, db, 1, nil)[0]
	ann, bob := g.view(t, g.token(t, "ann"), "documents"), g.view(t, g.token(t, "bob"), "documents")
	db.Exec(t, `insert into documents values (7, 'ann', 'hers')`)
	ann.sees(`1 created {"id":7,"owner":"ann","title":"hers"}`)
	bob.sees(`1 gone  {"id":7}`)
}
