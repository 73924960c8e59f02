package replay

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast/db"
	"github.com/pgcast/pgcast/listener"
)

// idleAdvance is how far the WAL moves before a place is stored for that alone, so that
// Postgres need not keep it. Not less: to store it writes WAL too.
const idleAdvance = 1 << 20

// captureSession is the life of one stream and one session that writes what it tells.
type captureSession struct {
	*capture
	id     int64 // what it stages is marked by
	conn   *pgx.Conn
	attend attendant
	stream *listener.Stream

	// Places in the WAL: what is stored, and up to where everything has been taken.
	done, seen pglogrepl.LSN
	step       int64
	slot       string
	cluster    int64
	drainTo    pglogrepl.LSN // no table is attached any more: ends when this is captured; 0: not yet

	epoch      uint64 // a transaction number not far from those of the stream
	relations  map[uint32]*relation
	images     *images
	statements int // made so far: their names
	attached   string
	versions   map[uint32]string // of the attachments

	// Of the transaction that is being read; nil between two.
	tx *sourceTx
	// Changes in stream order that are not written yet; those before whole are of
	// transactions that are complete, the last of which ends at end.
	changes  []*change
	size     int
	reading  reading
	reads    int // that will be needed to complete them
	whole    int
	end      pglogrepl.LSN // 0: none is complete that is not stored
	newest   time.Time     // its commit
	unseen   []string      // transactions that must be visible before their changes are written
	open     bool          // a transaction that writes is open
	mixed    bool          // with changes of a transaction that is not complete
	count    captureCount  // since it was begun
	inserted int64         // rows, by all statements

	streams  map[uint32]*streamedTx // large transactions that have not ended
	streamed *streamedTx            // the one a block is being read of
}

type captureCount struct{ events, transactions int }

// sourceTx is a transaction of the stream.
type sourceTx struct {
	xid      uint64
	at       time.Time // of the commit
	captured bool      // by an earlier session
	wanted   bool      // something of it becomes an event
}

// session captures until something fails: there is no other end but errNothing.
func (c *capture) session(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(ctx)
	}()
	s := &captureSession{capture: c, id: rand.Int64(), conn: conn, attend: attendant{pool: c.pool, pid: conn.PgConn().PID()},
		relations: map[uint32]*relation{}, streams: map[uint32]*streamedTx{}}
	s.images = newImages(c.limits.cache, func(xid uint64) {
		if t := s.streams[uint32(xid)]; t != nil {
			t.lossy = true
		}
	})
	if !c.shared {
		// Whoever may do without.
		if err := db.New(conn).CaptureEvict(ctx); err != nil {
			c.log.Warn("capture: could not end what an earlier server has left", "error", err)
		}
	}
	state, err := c.ready(ctx, conn)
	if err != nil {
		return err
	}
	s.done, s.step, s.slot, s.cluster = pglogrepl.LSN(state.Lsn), state.Step, state.Slot, state.Cluster
	s.seen = s.done
	if err := s.prepare(ctx); err != nil {
		return err
	}
	s.stream, err = listener.OpenStream(ctx, c.url, listener.StreamOptions{Slot: state.Slot, Publications: []string{captureOf}, From: s.done,
		Streaming: true, ApplicationName: captureName})
	if err != nil {
		return err
	}
	s.stream.Confirm(s.done)
	ended := make(chan error, 1)
	go func() { ended <- s.stream.Run(ctx) }()
	checks := make(chan db.CaptureStateRow)
	checked := make(chan struct{})
	go func() {
		defer close(checked)
		c.check(ctx, checks)
	}()
	err = s.read(ctx, checks)
	cancel()
	end := <-ended
	<-checked
	s.stream.Close()
	if errors.Is(err, errStreamEnded) {
		err = end
	}
	return err
}

var errStreamEnded = errors.New("the stream has ended")

// check looks after the slot while the session captures.
func (c *capture) check(ctx context.Context, checks chan<- db.CaptureStateRow) {
	for {
		state, err := c.look(ctx)
		if errors.Is(err, errDeposed) {
			state.Term, err = 0, nil
		}
		if err == nil {
			select {
			case checks <- state:
			case <-ctx.Done():
				return
			}
		}
		if sleep(ctx, captureEvery) != nil {
			return
		}
	}
}

func (s *captureSession) read(ctx context.Context, checks <-chan db.CaptureStateRow) error {
	batches := s.stream.Batches()
	alive := time.NewTicker(captureEvery)
	defer alive.Stop()
	for {
		select {
		case batch, ok := <-batches:
			if !ok {
				return errStreamEnded
			}
			for _, m := range batch {
				if err := s.take(ctx, m); err != nil {
					return err
				}
			}
			// Nothing more has arrived: what is complete need not wait for company.
			if len(batches) == 0 {
				if err := s.settle(ctx); err != nil {
					return err
				}
				if s.tx == nil {
					s.upToDate()
				}
			}
		case state := <-checks:
			if err := s.checked(ctx, state, len(batches) == 0); err != nil {
				return err
			}
		case <-alive.C:
			// The rest of a transaction may take its time to come. Without a word the session
			// that writes would be ended, like that of a server that froze.
			if s.open {
				if _, err := s.ask(ctx, query{sql: "select"}); err != nil {
					return fmt.Errorf("keep the transaction open that writes: %w", err)
				}
			}
		case <-ctx.Done():
			return ctx.Err()
		}
		if s.drainTo > 0 && s.done >= s.drainTo {
			return errNothing
		}
	}
}

// checked makes of a look at the slot what there is to know, and to do.
func (s *captureSession) checked(ctx context.Context, state db.CaptureStateRow, idle bool) error {
	if state.Term != s.term {
		return errDeposed
	}
	if idle && s.tx == nil {
		s.upToDate()
	}
	s.told.over()
	s.metrics.lagBytes.Set(float64(max(0, state.Flushed-int64(max(s.seen, s.done)))))
	s.metrics.retained.Set(float64(state.Retained))
	if state.Flushed > int64(s.seen) {
		// While other databases of the cluster write, a WAL sender that has nothing for us does
		// not say how far it has come.
		s.stream.Ask()
	}
	switch {
	case state.Attached > 0:
		s.drainTo = 0
	case s.drainTo == 0:
		s.drainTo = pglogrepl.LSN(state.Flushed)
	}
	if !idle {
		return nil
	}
	return s.settle(ctx)
}

// settle stores what is complete.
func (s *captureSession) settle(ctx context.Context) error {
	if s.tx != nil {
		return nil
	}
	if s.end > 0 {
		return s.finish(ctx)
	}
	if s.seen >= s.done+idleAdvance || s.drainTo > 0 && s.seen >= s.drainTo && s.done < s.drainTo {
		s.end = s.seen
		return s.finish(ctx)
	}
	return nil
}

// take takes one message.
func (s *captureSession) take(ctx context.Context, m listener.Message) error {
	switch m := m.Message.(type) {
	case nil: // a keepalive
	case *pglogrepl.BeginMessage:
		s.tx = &sourceTx{xid: s.xid(m.Xid), at: m.CommitTime, captured: m.FinalLSN < s.done}
		return nil
	case *pglogrepl.CommitMessage:
		s.committed(m)
		return nil
	case *pglogrepl.RelationMessageV2:
		return s.relation(ctx, m)
	case *pglogrepl.InsertMessageV2:
		return s.changed(ctx, 'I', m.RelationID, m.Xid, m.Tuple, nil, 0)
	case *pglogrepl.UpdateMessageV2:
		return s.changed(ctx, 'U', m.RelationID, m.Xid, m.NewTuple, m.OldTuple, m.OldTupleType)
	case *pglogrepl.DeleteMessageV2:
		return s.changed(ctx, 'D', m.RelationID, m.Xid, nil, m.OldTuple, m.OldTupleType)
	case *pglogrepl.TruncateMessageV2:
		return s.truncated(ctx, m)
	case *pglogrepl.StreamStartMessageV2:
		return s.streamStart(ctx, m)
	case *pglogrepl.StreamStopMessageV2:
		return s.streamStop(ctx)
	case *pglogrepl.StreamCommitMessageV2:
		return s.streamCommit(ctx, m)
	case *pglogrepl.StreamAbortMessageV2:
		return s.streamAbort(ctx, m)
	case *pglogrepl.TypeMessageV2, *pglogrepl.OriginMessage:
		return nil // of no interest
	default:
		return fmt.Errorf("capture: a message of type %v, which was not asked for", m.Type())
	}
	if s.tx == nil && s.streamed == nil && m.End > s.seen {
		s.seen = m.End
	}
	return nil
}

func (s *captureSession) committed(m *pglogrepl.CommitMessage) {
	tx := s.tx
	s.tx = nil
	if tx == nil {
		return
	}
	s.seen = max(s.seen, m.TransactionEndLSN)
	if !tx.wanted {
		return
	}
	s.whole, s.end, s.newest = len(s.changes), m.TransactionEndLSN, tx.at
	s.count.transactions++
}

// reach notes about which number transactions have got to: the stream, which has only those
// that concern us, may leave out billions.
func (s *captureSession) reach(newest []byte) error {
	n, err := strconv.ParseUint(string(newest), 10, 64)
	s.epoch = max(s.epoch, n)
	return err
}

// xid gives a transaction number in full. The stream has its lower half, and those that are
// used at one time lie within two billions of each other.
func (s *captureSession) xid(short uint32) uint64 {
	full := s.epoch + uint64(int64(int32(short-uint32(s.epoch))))
	s.epoch = max(s.epoch, full)
	return full
}
