package judge

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Writers write to the table item until they are stopped, and outlive everything that
// happens to Postgres.
type Writers struct {
	Committed atomic.Int64 // transactions, also those rolled back on purpose
	Failed    atomic.Int64 // transactions, and attempts to connect

	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu    sync.Mutex
	codes map[string]int // SQLSTATEs of failed transactions; guarded by mu
}

// StartWriters starts n writers, whose random choices follow from the seed.
func StartWriters(t testing.TB, url string, n int, seed uint64) *Writers {
	ctx, cancel := context.WithCancel(context.Background())
	w := &Writers{cancel: cancel, codes: map[string]int{}}
	for i := range n {
		w.wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), seed))
			for ctx.Err() == nil {
				w.session(ctx, url, r)
				Pause(ctx, 20*time.Millisecond)
			}
		})
	}
	t.Cleanup(w.Stop)
	return w
}

// Stop ends them and waits until they have ended.
func (w *Writers) Stop() { w.cancel(); w.wg.Wait() }

// InCapture follows the SQLSTATEs of errors that were raised within capture.
const InCapture = " in capture"

// Codes gives the SQLSTATEs of failed transactions and how often each came; "" are lost
// connections.
func (w *Writers) Codes() map[string]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	codes := map[string]int{}
	for c, n := range w.codes {
		codes[c] = n
	}
	return codes
}

// session writes through one connection until that breaks.
func (w *Writers) session(ctx context.Context, url string, r *rand.Rand) {
	dial, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := pgx.Connect(dial, url)
	if err != nil {
		w.failed(ctx, err)
		return
	}
	defer conn.Close(context.Background())
	for ctx.Err() == nil {
		if err := Transaction(ctx, conn, r); err != nil {
			w.failed(ctx, err)
			return
		}
		w.Committed.Add(1)
		Pause(ctx, time.Duration(r.IntN(4000))*time.Microsecond)
	}
}

func (w *Writers) failed(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return // by Stop
	}
	w.Failed.Add(1)
	code := ""
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		code = pg.Code
		if strings.Contains(pg.Where, "pgcast.capture_") {
			code += InCapture
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.codes[code]++
}

// Transaction writes one random transaction: rows, bulk, updates that move rows to other
// topics, deletes, publishes; some are rolled back.
func Transaction(ctx context.Context, conn *pgx.Conn, r *rand.Rand) error {
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		for range 1 + r.IntN(3) {
			if err := Write(ctx, tx, r); err != nil {
				return err
			}
		}
		if r.IntN(8) == 0 {
			return errRollback
		}
		return nil
	})
	if errors.Is(err, errRollback) {
		return nil
	}
	return err
}

// Write makes one random statement.
func Write(ctx context.Context, tx pgx.Tx, r *rand.Rand) (err error) {
	switch room := r.IntN(rooms); r.IntN(6) {
	case 0, 1, 2:
		_, err = tx.Exec(ctx, "insert into item (room, n) select $1, g from generate_series(1, $2::int) g", room, 1+r.IntN(3))
	case 3:
		_, err = tx.Exec(ctx, `update item set n = n + 1, room = $2 where id = (
			select id from item where room = $1 order by id desc limit 1 for update skip locked)`, room, r.IntN(rooms))
	case 4:
		_, err = tx.Exec(ctx, `delete from item where id = (
			select id from item where room = $1 order by id limit 1 for update skip locked)`, room)
	case 5:
		_, err = tx.Exec(ctx, "select pgcast.publish('room:' || $1::int, 'note', to_jsonb($2::int))", room, r.IntN(100))
	}
	return err
}

var errRollback = errors.New("rolled back on purpose")

// Pause waits, or until ctx ends.
func Pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
