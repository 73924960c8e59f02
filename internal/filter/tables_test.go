package filter

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgcast/pgcast"
)

// Many who wait for the attached tables while the database does not answer are told so at
// once, and not one after the other.
func TestTablesFailTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		down := errors.New("down")
		var loads atomic.Int64
		tables := NewTables(func(context.Context) ([]pgcast.Table, error) {
			loads.Add(1)
			time.Sleep(10 * time.Second)
			return nil, down
		})
		f := must(t, "a = 1")
		p, err := pgcast.ParsePattern("a")
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		var wg sync.WaitGroup
		wg.Go(func() {
			for range 2 { // who asks anew has it tried anew
				if err := tables.Check(t.Context(), f, p); !errors.Is(err, down) {
					t.Error(err)
				}
			}
		})
		synctest.Wait()
		for range 50 {
			wg.Go(func() {
				time.Sleep(time.Second)
				if err := tables.Check(t.Context(), f, p); !errors.Is(err, down) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n, took := loads.Load(), time.Since(began); n != 2 || took != 20*time.Second {
			t.Errorf("they were looked up %d times, in %v", n, took)
		}
	})
}
