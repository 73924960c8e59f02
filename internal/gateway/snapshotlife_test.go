package gateway

import (
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"
)

// A snapshot over HTTP that its reader has not taken when the token expires is cut off.
func TestSnapshotEndsWithToken(t *testing.T) {
	t.Parallel()
	d := newDoor(t, func(s *setup) { s.small = true })
	const rows, size = 1000, 10_000
	d.db.Exec(t, fmt.Sprintf(`create table public.big (id int primary key, room int, body text); select pgcast.attach('public.big', topic => 'room:{room}');
		insert into public.big select i, 1, repeat('x', %d) from generate_series(1, %d) i`, size, rows))
	take := func(exp time.Time, pause bool) (n int64, err error) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, d.http.URL+"/topics/room:1/snapshot", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header = bearing(d.token(t, "ann", until(exp)))
		res, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			t.Fatalf("the answer is %s", res.Status)
		}
		if pause {
			await(t, "the token has expired", func() bool { return time.Now().After(exp) })
		}
		return io.Copy(io.Discard, res.Body)
	}
	if n, err := take(second(time.Hour), false); err != nil || n < rows*size {
		t.Errorf("%d bytes came, %v", n, err)
	}
	if n, err := take(second(5*time.Second), true); err == nil || n >= rows*size {
		t.Errorf("%d bytes came after expiry, %v", n, err)
	} else {
		t.Logf("%d bytes had been sent before expiry: %v", n, err)
	}
}

// A snapshot over HTTP that its reader has not taken when the right is lost, or who he is does
// not count any more, is cut off; while nobody can decide it goes on.
func TestSnapshotEndsWithRight(t *testing.T) {
	t.Parallel()
	w, p := guarded(t, func(s *setup) { s.small = true })
	const rows, size = 1000, 10_000
	w.db.Exec(t, fmt.Sprintf(`create table public.big (id int primary key, room int, body text); select pgcast.attach('public.big', topic => 'room:{room}');
		insert into public.big select i, 1, repeat('x', %d) from generate_series(1, %d) i`, size, rows))
	p.let("ann snapshot room:1")
	for name, c := range map[string]struct {
		change func()
		whole  bool
	}{
		"nothing":      {func() {}, true},
		"undecided":    {func() { p.set(func() { p.down = true }) }, true},
		"lost":         {func() { p.forbid("ann snapshot room:1") }, false},
		"may not even": {func() { p.ban("ann") }, false},
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.http.URL+"/topics/room:1/snapshot", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header = bearing("ann")
		res, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		if res.StatusCode != http.StatusOK {
			t.Fatalf("%s: the answer is %s", name, res.Status)
		}
		c.change()
		n, err := io.Copy(io.Discard, res.Body)
		if whole := err == nil && n >= rows*size; whole != c.whole {
			t.Errorf("%s: %d bytes came, %v", name, n, err)
		}
		_ = res.Body.Close()
		p.let("ann snapshot room:1")
		p.set(func() { p.down = false; delete(p.banned, "ann") })
	}
}
