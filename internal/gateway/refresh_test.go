package gateway

import (
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/pgcast/pgcast/internal/auth"
)

// While it cannot be decided whether somebody may have what is past, he is told to try again,
// and not that it is lost to him.
func TestUndecidedHistoryIsNoGap(t *testing.T) {
	t.Parallel()
	w, rules := guarded(t, nil)
	w.publish(t, "a:1", 3, 10)
	w.sequenced(t)
	rules.let("ann subscribe,history a:1")
	rules.set(func() { rules.unsure = auth.History })
	ann := w.dialBy(t, "ann")
	if got := ann.try(`{"type":"subscribe","topic":"a:1","after":0,"ref":1}`); got != "subscribe-denied INTERNAL_ERROR" {
		t.Errorf("answered with %s", got)
	}
	if got := w.is(t, "ann", "GET", "/topics/a:1/sse?after=0"); got != http.StatusServiceUnavailable {
		t.Errorf("a stream: %d", got)
	}
	rules.set(func() { rules.unsure = "" })
	ann.subscribe("a:1", at(0), "")
	ann.stream("a:1", 1, 3)
}

// A snapshot over HTTP that its reader has not taken when the right to it is lost is cut off.
func TestSnapshotEndsWithRight(t *testing.T) {
	t.Parallel()
	w, rules := guarded(t, func(s *setup) { s.small = true })
	rules.let("ann snapshot room:1")
	const rows, size = 1000, 10_000
	w.db.Exec(t, fmt.Sprintf(`create table public.big (id int primary key, room int, body text); select pgcast.attach('public.big', topic => 'room:{room}');
		insert into public.big select i, 1, repeat('x', %d) from generate_series(1, %d) i`, size, rows))
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.http.URL+"/topics/room:1/snapshot", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header = bearing("ann")
	res, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	rules.forbid("ann snapshot room:1")
	if n, err := io.Copy(io.Discard, res.Body); res.StatusCode != http.StatusOK || err == nil || n >= rows*size {
		t.Errorf("%s, and %d bytes came, %v", res.Status, n, err)
	}
}
