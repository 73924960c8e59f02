package replay

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgcast/pgcast/internal/pgtest"
)

// How much the property tests try unless the command line says otherwise: each of their
// actions is some round trips to Postgres.
var histories = map[string]string{"rapid.checks": "15", "rapid.steps": "60", "rapid.nofailfile": "true"}

func TestMain(m *testing.M) {
	flag.Parse()
	given := map[string]bool{}
	flag.Visit(func(f *flag.Flag) { given[f.Name] = true })
	for name, value := range histories {
		if given[name] {
			continue
		}
		if err := flag.Set(name, value); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
	}
	os.Exit(m.Run())
}

// poolAs opens a pool for another role.
func poolAs(t testing.TB, d *pgtest.DB, role string) *pgxpool.Pool {
	t.Helper()
	u, err := url.Parse(d.URL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User(role)
	pool, err := pgxpool.New(context.Background(), u.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// dropRole is for cleanups, when the test's context is over.
func dropRole(t testing.TB, databaseURL, role string) {
	conn, err := pgx.Connect(context.Background(), databaseURL)
	if err == nil {
		_, err = conn.Exec(context.Background(), "drop owned by "+role+"; drop role "+role)
		_ = conn.Close(context.Background())
	}
	if err != nil {
		t.Errorf("drop role %s: %v", role, err)
	}
}

// within is how long a test waits for what it knows will come; long, because the machine
// may be busy.
const within = time.Minute

// await waits until the condition holds.
func await(t testing.TB, what string, condition func() bool) {
	t.Helper()
	awaitFor(t, within, what, condition)
}

func awaitFor(t testing.TB, patience time.Duration, what string, condition func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for tick := time.NewTicker(2 * time.Millisecond); ; {
		if condition() {
			tick.Stop()
			return
		}
		select {
		case <-t.Context().Done():
			t.Fatalf("the test was over before %s", what)
		case <-deadline.C:
			t.Fatalf("%s: still not so after %v", what, patience)
		case <-tick.C:
		}
	}
}

var discard = slog.New(slog.DiscardHandler)
