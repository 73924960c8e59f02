package server

import (
	"bytes"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgcast/pgcast/fanout"
	"github.com/pgcast/pgcast/internal/auth"
	"github.com/pgcast/pgcast/internal/pgtest"
)

// counter is a session's end that counts what it is sent.
type counter struct{ shown, gone *atomic.Int64 }

func (c *counter) Write(items []fanout.Item) error {
	for _, i := range items {
		if i.Frame == nil {
			continue
		}
		if bytes.Contains(i.Frame.Text(), []byte(`"event":"gone"`)) {
			c.gone.Add(1)
		} else {
			c.shown.Add(1)
		}
	}
	return nil
}

func (c *counter) Close(error) {}

// What row security costs: changes of a table delivered to 3,000 subscribers, by how many
// different claims they have. Each event of each claims is checked once, however many
// subscribe.
func TestRowSecurityFigure(t *testing.T) {
	const subscribers = 3000
	changes := 150
	if testing.Short() {
		changes = 20
	}
	for _, users := range []int{1, 100} {
		t.Run(fmt.Sprintf("%d users", users), func(t *testing.T) {
			db := pgtest.New(t, nil)
			role := secured(t, db, "trigger")
			db.Exec(t, `select pgcast.enforce('public.documents', '`+role+`', '{sub}')`)
			g := guard(t, db, 1, nil)[0]
			await(t, "the table is known", func() bool { return g.security.rows.Tables() == 1 })
			var shown, gone atomic.Int64
			var wg sync.WaitGroup
			for i := range subscribers {
				claims, err := auth.NewClaims(auth.FromToken, fmt.Appendf(nil, `{"sub":"user%d","n":%d}`, i%users, i))
				if err != nil {
					t.Fatal(err)
				}
				session := g.hub.NewSession(&counter{&shown, &gone})
				t.Cleanup(func() { session.End(nil) })
				wg.Go(func() {
					if err := session.Subscribe(t.Context(), fanout.Request{Topic: "documents", Lens: g.security.lens(claims, "documents")}); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			checks := func() (n uint64) {
				families, err := g.registry.Gather()
				if err != nil {
					t.Fatal(err)
				}
				for _, f := range families {
					if f.GetName() == "pgcast_row_security_check_seconds" {
						n = f.Metric[0].GetHistogram().GetSampleCount()
					}
				}
				return n
			}
			writer := db.Conn(t)
			before, began := checks(), time.Now()
			for i := range changes {
				if _, err := writer.Exec(t.Context(), `insert into public.documents values ($1, 'user0', 'x')`, i+1); err != nil {
					t.Fatal(err)
				}
			}
			await(t, "all is delivered", func() bool { return shown.Load()+gone.Load() == int64(subscribers*changes) })
			took := time.Since(began)
			t.Logf("%d subscribers, %d different claims: %.0f changes/s delivered to all, %.0f deliveries/s, %.2f checks per change (%d cores with Postgres and the writer)",
				subscribers, users, float64(changes)/took.Seconds(), float64(subscribers*changes)/took.Seconds(), float64(checks()-before)/float64(changes), runtime.NumCPU())
			if want := int64(subscribers / users * changes); shown.Load() != want {
				t.Errorf("%d were shown, %d should be", shown.Load(), want)
			}
			if n := float64(checks()-before) / float64(changes); n > float64(users)*1.1 {
				t.Errorf("%.2f checks per change with %d different claims", n, users)
			}
		})
	}
}
