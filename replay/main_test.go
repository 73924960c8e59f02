package replay

import (
	"flag"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"
)

// How much the property tests try unless the command line says otherwise: each of their
// actions is some round trips to Postgres.
var histories = map[string]string{"rapid.checks": "25", "rapid.steps": "60", "rapid.nofailfile": "true"}

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

// within is how long a test waits for what it knows will come; long, because the machine
// may be busy.
const within = 20 * time.Second

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
