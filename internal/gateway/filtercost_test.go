package gateway

import (
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pgcast/pgcast/fanout"
	"github.com/pgcast/pgcast/internal/filter"
)

// counting is where a session's items go that a test only counts.
type counting struct{ events *atomic.Int64 }

func (c counting) Write(items []fanout.Item) error {
	n := int64(0)
	for _, i := range items {
		if i.Frame != nil {
			n++
		}
	}
	c.events.Add(n)
	return nil
}

func (c counting) Offer(items []fanout.Item) (bool, error) { return true, c.Write(items) }

func (counting) Close(error) {}

// processor is how much processor time this process has used.
func processor() time.Duration {
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r) // it cannot fail for oneself
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// TestFilterCost prints what it costs to deliver to 5,000 subscriptions of one topic, with ten
// filters of which each lets every tenth row through, and without any.
func TestFilterCost(t *testing.T) {
	const subscriptions, rows = 5000, 500
	w := notes(t, nil)
	for _, filtered := range []bool{false, true} {
		var got atomic.Int64
		var sessions []*fanout.Session
		for i := range subscriptions {
			s := w.hub.NewSession(counting{&got})
			sessions = append(sessions, s)
			req := fanout.Request{Topic: "notes:1"}
			if filtered {
				f, err := filter.Parse(fmt.Sprintf("author = '%d' and not body starts with 'draft'", i%10))
				if err != nil {
					t.Fatal(err)
				}
				if req.Lens, err = w.gate.view(t.Context(), nil, "notes:1", f); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.Subscribe(t.Context(), req); err != nil {
				t.Fatal(err)
			}
		}
		write := func(n int) { // one by one, as they come live
			for i := range n {
				w.db.Exec(t, `insert into public.notes select coalesce(max(id), 0) + 1, 1, $1, repeat('lorem ipsum ', 10) from public.notes`, fmt.Sprint(i%10))
			}
			w.sequenced(t)
		}
		each := int64(1)
		if filtered {
			each = 10
		}
		write(10)
		await(t, "all have got the first", func() bool { return got.Load() == 10*subscriptions/each })
		before := processor()
		n := rows / 10 * int(each) / 5 // as many deliveries both times
		write(n)
		await(t, "all have got the others", func() bool { return got.Load() == int64(10+n)*subscriptions/each })
		spent := processor() - before
		deliveries := int64(n) * subscriptions / each
		t.Logf("filtered %t: %d events looked at by %d subscriptions, %d deliveries: %v of processor time for each delivery, %v for each event and subscription", filtered,
			n, subscriptions, deliveries, (spent / time.Duration(deliveries)).Round(10*time.Nanosecond), (spent / time.Duration(n*subscriptions)).Round(10*time.Nanosecond))
		for _, s := range sessions {
			s.End(nil)
		}
		await(t, "all have gone", func() bool { return len(w.hub.Sessions()) == 0 })
	}
}
