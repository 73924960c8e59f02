package fanout

import (
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// How much the property tests try unless the command line says otherwise: each of their
// actions is some round trips to Postgres.
var histories = map[string]string{"rapid.checks": "25", "rapid.shrinktime": "5s", "rapid.nofailfile": "true"}

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
	goleak.VerifyTestMain(m)
}

// within is how long a test waits for what it knows will come; long, because the machine
// may be busy.
const within = 20 * time.Second

// await waits until the condition holds.
func await(t testing.TB, what string, condition func() bool) {
	t.Helper()
	if !poll(condition) {
		t.Fatalf("%s: still not so after %v", what, within)
	}
}

// poll asks now and then, and tells whether the answer was ever yes.
func poll(condition func() bool) bool {
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-deadline.C:
			return condition()
		case <-tick.C:
		}
	}
	return true
}
