package main

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcast/pgcast"
)

// slotLook is how often to look who keeps a slot from being made.
const slotLook = 500 * time.Millisecond

// openSlot makes the slot that capture from the WAL reads, if there is none. Postgres
// makes one only when every transaction that was open before has ended: who that is, is
// said. It tells whether it was us who made it.
func (a *app) openSlot(ctx context.Context, conn *pgx.Conn, most time.Duration) (made bool, err error) {
	if !lacksSlot(ctx, conn) {
		return false, nil
	}
	var slot string
	done, working := make(chan error, 1), conn.PgConn().PID()
	making, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		err := conn.QueryRow(making, makeSlot).Scan(&slot)
		if isPostgres(err, "XX000") {
			// When others change the catalogs meanwhile, Postgres may make the slot and then lose
			// its own book-keeping of the statement. The slot is there.
			err = conn.QueryRow(making, makeSlot).Scan(&slot)
		}
		done <- err
	}()
	w := a.waiting(most)
	look := time.NewTicker(slotLook)
	defer look.Stop()
	var other *pgx.Conn // to ask while the first waits
	defer func() {
		if other != nil {
			_ = other.Close(context.WithoutCancel(ctx)) // it has only read
		}
	}()
	for {
		select {
		case err := <-done:
			if ctx.Err() != nil {
				return false, ctx.Err()
			}
			if err == nil {
				a.sayf("made replication slot %s\n", plain(slot))
			}
			return err == nil, mayNotReplicate(ctx, conn, err)
		case <-look.C:
		}
		if other == nil {
			if other, err = a.connect(ctx); err != nil {
				cancel()
				<-done
				return false, err
			}
		}
		who, err := blockersOf(ctx, other, working)
		if err == nil && time.Now().After(w.late) {
			err = w.over("the replication slot, which is made when transactions that are open have ended", who)
		}
		if err != nil {
			cancel() // ends the statement in the database too: nothing is left of the slot
			<-done
			return false, err
		}
		if len(who) > 0 {
			w.say("transactions that are open, to make the replication slot", who)
		}
	}
}

// mayNotReplicate adds to Postgres' refusal what mends it.
func mayNotReplicate(ctx context.Context, conn *pgx.Conn, err error) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || pg.Code != "42501" || conn.IsClosed() {
		return err
	}
	var role string
	if conn.QueryRow(ctx, "select quote_ident(current_user)").Scan(&role) != nil {
		return err // the first error says more
	}
	return &pgcast.Error{Code: pgcast.CodeForbidden, Message: pg.Message, Hint: "alter role " + role + " replication; or capture by trigger"}
}

func lacksSlot(ctx context.Context, conn *pgx.Conn) (lacks bool) {
	err := conn.QueryRow(ctx, "select not exists (select from pg_replication_slots s where s.slot_name = pgcast.slot_name())").Scan(&lacks)
	return err == nil && lacks
}

// closeSlot drops the slot when no table is captured by it any more. A server that reads
// it does that by itself.
func (a *app) closeSlot(ctx context.Context, conn *pgx.Conn) error {
	var slot string
	var used, active bool
	rows, err := conn.Query(ctx, `select s.slot_name::text, exists (select from pgcast.attachment a where a.via = 'wal'), s.active
		from pg_replication_slots s where s.slot_name = pgcast.slot_name()`)
	if err != nil {
		return err
	}
	if !rows.Next() {
		rows.Close()
		return rows.Err()
	}
	err = rows.Scan(&slot, &used, &active)
	rows.Close()
	if err != nil || used {
		return err
	}
	if !active {
		if _, err = conn.Exec(ctx, "select pgcast.close_slot()"); err == nil {
			a.sayf("dropped replication slot %s: no table is captured by it any more\n", plain(slot))
			return nil
		}
		active = isPostgres(err, "55006") // a server has just begun to read it, or a table was attached
	}
	if active {
		a.sayf("no table is captured by replication slot %s any more; the server that reads it drops it\n", plain(slot))
		return nil
	}
	return err
}
