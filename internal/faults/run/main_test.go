package main

import (
	"strings"
	"testing"
	"time"

	"github.com/pgcast/pgcast/internal/faults"
)

// What go test says becomes the end of each test, and of a skip the reason.
func TestListen(t *testing.T) {
	ends, err := listen(strings.NewReader(`{"Action":"run","Test":"TestFault01X"}
{"Action":"output","Test":"TestFault01X","Output":"=== RUN   TestFault01X\n"}
{"Action":"output","Test":"TestFault01X","Output":"    x_test.go:9: needs pgbouncer\n"}
{"Action":"output","Test":"TestFault01X","Output":"--- SKIP: TestFault01X (0.00s)\n"}
{"Action":"skip","Test":"TestFault01X"}
{"Action":"fail","Test":"TestFault02Y"}
{"Action":"pass","Test":"TestFault03Z"}
{"Action":"fail"}
`))
	if err != nil || len(ends) != 3 || ends["TestFault01X"] != (end{"skip", "needs pgbouncer"}) || ends["TestFault02Y"].state != "fail" || ends["TestFault03Z"].state != "pass" {
		t.Errorf("%v, %v", ends, err)
	}
	if _, err := listen(strings.NewReader("no JSON\n")); err == nil {
		t.Error("what is no JSON was believed")
	}
}

// The page tells what was measured once, and hides nothing that failed, missed or was skipped.
func TestRender(t *testing.T) {
	base := faults.Result{Row: "2", Fault: "b", Figure: "f1", Value: "1", Target: "≤ 2", Met: true, Events: 100, Trials: 3}
	missed := base
	missed.Figure, missed.Met, missed.Why = "f2", false, "it is far"
	first := faults.Result{Row: "1", Fault: "a", Figure: "f0", Value: "0", Target: "0", Met: true, Events: 50, Trials: 1}
	ends := map[string]end{"TestFault01A": {"pass", ""}, "TestFault02B": {"fail", ""}, "TestFault55P": {"skip", "needs pgbouncer"}}
	page := render(report{seed: 7, full: true, began: time.Unix(0, 0), took: time.Minute, machine: "go1", ends: ends, results: []faults.Result{base, missed, first}})
	for _, want := range []string{"go run ./internal/faults/run -seed 7 -full\n", "**150 deliveries compared with the log in 4 trials: none lost",
		"| 1 | a | 1 | 50 | 0 / 0 / 0 / 0 / 0 / 0 | f0 | 0 | 0 | met |\n| 2 | b | 3 | 100 |", "|  |  |  |  |  | f2 | 1 | ≤ 2 | **not met** |",
		"1 of 3 figures missed", "- Row 2, f2: it is far.\n", "## Failed\n\n- TestFault02B", "- TestFault55P: needs pgbouncer", "| 60 | TestFault60Combinations |"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	first.Lost = 2
	if page := render(report{results: []faults.Result{first}}); !strings.Contains(page, "2 WRONG") {
		t.Error("the page hides that something was lost")
	}
}
