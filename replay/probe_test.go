package replay

import (
	"testing"

	"github.com/pgcast/pgcast/internal/pgtest"
)

// A probe steps and trims as a server would, keeps servers and other probes out while it
// is open, and lets them in after.
func TestProbe(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, nil)
	pool := d.Pool(t)
	p, err := OpenProbe(t.Context(), d.URL, pool)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { p.Close() }()
	if other, err := OpenProbe(t.Context(), d.URL, pool); err == nil {
		other.Close()
		t.Fatal("two probes at once")
	}
	if n, more, err := p.Step(t.Context()); n != 0 || more || err != nil { // the first start's re-base comes to its end
		t.Fatal(n, more, err)
	}
	d.Exec(t, "select count(pgcast.publish('a', 'e')) from generate_series(1, 1500)")
	total := 0
	for more := true; more; {
		n, chunk, err := p.Step(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		total, more = total+n, n > 0 || chunk
	}
	if total != 1500 {
		t.Errorf("%d events in all steps", total)
	}
	topic := pgtest.Value[int64](t, d, "select id from pgcast.topic where name = 'a'")
	for i, full := range []bool{true, false} { // a batch is 1,000
		if got, err := p.Trim(t.Context(), topic, 100); err != nil || got != full {
			t.Errorf("trim %d: full %v, %v", i, got, err)
		}
	}
	if n := pgtest.Value[int](t, d, "select count(*)::int from pgcast.history"); n != 100 {
		t.Errorf("%d events are left of 1,500 that were to be trimmed to 100", n)
	}
	if _, err := p.Trim(t.Context(), topic+1, 1); err == nil {
		t.Error("a topic that is not there was trimmed")
	}
	p.Close()
	next, err := OpenProbe(t.Context(), d.URL, pool)
	if err != nil {
		t.Fatalf("after it was closed: %v", err)
	}
	p = next
}
