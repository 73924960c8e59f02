package replay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"

	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast/db"
)

// takeTerm deposes whoever sequenced before (unless the term is shared) and makes sure
// that the log can be sequenced on this cluster.
//
// Transaction numbers mean something only on the cluster that gave them out. If the log
// was last sequenced on another one (dump and restore), or has seen transactions that
// this one has not given out yet, it is re-based: everything without a replay row is
// sequenced by that alone. A promoted standby or a restored base backup goes on with the
// numbers it came with, so a new timeline alone needs no more than to be noted.
func takeTerm(ctx context.Context, conn *pgx.Conn, shared bool, log *slog.Logger) (term int64, err error) {
	// In one transaction, which from its first statement on holds the row that each step
	// needs: servers that share a term would else re-base at once.
	err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite}, func(tx pgx.Tx) error {
		q := db.New(tx)
		if shared {
			term, err = q.SequencerTerm(ctx)
		} else {
			term, err = q.SequencerLead(ctx)
		}
		if err != nil {
			return fmt.Errorf("take the sequencer's term: %w", err)
		}
		if _, err := q.SequencerHold(ctx, term); errors.Is(err, pgx.ErrNoRows) {
			return errDeposed
		} else if err != nil {
			return fmt.Errorf("hold the sequencer's row: %w", err)
		}
		return settle(ctx, q, term, log)
	})
	return term, err
}

// settle re-bases the log if need be, and notes the cluster's identity.
func settle(ctx context.Context, q *db.Queries, term int64, log *slog.Logger) error {
	was, err := q.SequencerStored(ctx)
	if err != nil {
		return fmt.Errorf("read the log's cluster: %w", err)
	}
	is, err := q.SequencerIdentity(ctx)
	if err != nil {
		return fmt.Errorf("read this cluster's identity: %w", err)
	}
	// A log that was never sequenced may have come from elsewhere as well.
	elsewhere := was.SystemIdentifier != is.SystemIdentifier
	if elsewhere || is.Ahead {
		level := slog.LevelWarn
		if was.SystemIdentifier == 0 {
			level = slog.LevelDebug
		}
		log.Log(ctx, level, "sequencer: the log comes from another cluster, re-basing it",
			"was", identity(was.SystemIdentifier, was.Timeline), "is", identity(is.SystemIdentifier, is.Timeline))
		if err := q.SequencerRebase(ctx, term); err != nil {
			return fmt.Errorf("re-base the log: %w", err)
		}
	}
	if elsewhere || was.Timeline != is.Timeline {
		err := q.SequencerRemember(ctx, db.SequencerRememberParams{Term: term, SystemIdentifier: is.SystemIdentifier, Timeline: is.Timeline})
		if err != nil {
			return fmt.Errorf("note this cluster's identity: %w", err)
		}
	}
	return nil
}

func identity(system int64, timeline int32) string {
	return strconv.FormatUint(uint64(system), 16) + "." + strconv.FormatInt(int64(timeline), 16)
}

// Identity names the cluster and timeline the database is on now. It changes with a
// restore into another cluster and with a failover.
func (l *Log) Identity(ctx context.Context) (string, error) {
	is, err := l.queries.SequencerIdentity(ctx)
	if err != nil {
		return "", unavailable("read the cluster's identity", err)
	}
	return identity(is.SystemIdentifier, is.Timeline), nil
}
