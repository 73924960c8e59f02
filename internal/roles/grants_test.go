package roles

import (
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast/internal/pgtest"
)

// TestEverythingIsClassified finds what a migration has added to schema pgcast, or taken away,
// without a word in the lists of what the roles may do with it.
func TestEverythingIsClassified(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	conn := db.Conn(t)
	var known, calls []string
	for _, o := range relations {
		known = append(known, o.name)
	}
	for name := range functions {
		calls = append(calls, name)
	}
	for what, q := range map[string]struct {
		sql   string
		known []string
	}{
		"table, view or sequence": {`select relname::text from pg_class where relnamespace = 'pgcast'::regnamespace and relkind not in ('i', 'I', 'c', 't')`, known},
		"function":                {`select proname::text from pg_proc where pronamespace = 'pgcast'::regnamespace`, calls},
	} {
		rows, _ := conn.Query(t.Context(), q.sql)
		there, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range there {
			if !slices.Contains(q.known, name) {
				t.Errorf("%s %s is in no list: say in grants.go who may do what with it", what, name)
			}
		}
		for _, name := range q.known {
			if !slices.Contains(there, name) {
				t.Errorf("there is no %s %s: take it out of grants.go", what, name)
			}
		}
	}
}
