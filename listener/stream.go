package listener

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// The reasons why Postgres will not stream, as errors.Is finds them.
var (
	ErrNotLogical  = errors.New("wal_level is not logical")
	ErrNotAllowed  = errors.New("the role may not replicate")
	ErrSlotMissing = errors.New("there is no such replication slot")
	ErrSlotLost    = errors.New("the WAL that the replication slot needs has been removed")
	ErrSlotInUse   = errors.New("the replication slot is in use by another process")
	ErrNoSlots     = errors.New("no replication slot or WAL sender is free")

	ErrNoPublication = errors.New("a publication is missing")
	// ErrSilent says that the WAL sender answers nothing any more, not even what it is asked.
	ErrSilent = errors.New("the WAL sender has fallen silent")
)

const (
	// Messages are handed on in batches. What is on its way to the consumer is bounded by
	// them: a batch is full when it has this many bytes, so it may be larger by one row.
	batchBytes    = 256 << 10
	batchMessages = 512
	batchesAhead  = 8

	statusEvery = 10 * time.Second // at least; a third of wal_sender_timeout where that is less

	// A WAL sender that is at work on a large transaction says something each half of
	// wal_sender_timeout; where that is longer than this, or 0, this counts.
	longestSilence = 10 * time.Minute
)

// StreamOptions say what to stream.
type StreamOptions struct {
	Slot string // of an existing slot; "": a temporary one, which ends with the connection
	// Publications name what is wanted of the WAL.
	Publications []string
	// From is the place everything after which is wanted. Postgres begins at the slot's
	// own place when that is later.
	From pglogrepl.LSN
	// Streaming lets Postgres send large transactions before they have committed
	// (protocol version 2 of pgoutput).
	Streaming bool
	// Timeout is the wal_sender_timeout of this connection, after which either end takes the
	// other for gone: 100 ms or more. Default: the server's.
	Timeout time.Duration
	// ApplicationName is what pg_stat_replication calls the connection. Default "pgcast".
	ApplicationName string
}

// Message is one message of a stream. Of a keepalive, Message is nil: it says that there is
// nothing before End that has not been handed on.
type Message struct {
	pglogrepl.Message
	End pglogrepl.LSN // of the WAL when it was sent
}

// Stream is a logical replication connection. One goroutine, Run, owns it, and answers
// Postgres whatever the consumer does: a consumer that stands still for an hour loses
// nothing and is not cut off.
type Stream struct {
	conn      *pgconn.PgConn
	batches   chan []Message
	every     time.Duration // between two status updates
	silence   time.Duration // after which the other end is dead
	streaming bool
	confirmed atomic.Uint64
	asked     atomic.Bool // to have Postgres answer
	slot      string
	wake      nudge // ends Run's reading for a moment
}

// OpenStream connects and starts to stream. url must lead directly to the primary. To make
// a temporary slot Postgres waits until the transactions open at that moment have ended.
func OpenStream(ctx context.Context, url string, opts StreamOptions) (*Stream, error) {
	cfg, err := pgconn.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("read the database URL: %w", err)
	}
	cfg.RuntimeParams["replication"] = "database"
	if opts.ApplicationName == "" {
		opts.ApplicationName = "pgcast"
	}
	cfg.RuntimeParams["application_name"] = opts.ApplicationName
	// What values look like, here and in the sessions that read them, is Postgres' business:
	// these read back exactly.
	for name, value := range map[string]string{"datestyle": "ISO", "intervalstyle": "postgres", "extra_float_digits": "1", "bytea_output": "hex",
		"timezone": "UTC", "lc_monetary": "C", "client_encoding": "UTF8"} {
		cfg.RuntimeParams[name] = value
	}
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = Patience
	}
	if opts.Timeout > 0 {
		cfg.RuntimeParams["wal_sender_timeout"] = strconv.FormatInt(opts.Timeout.Milliseconds(), 10)
	}
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to replicate: %w", whyNot(err))
	}
	s := &Stream{conn: conn, batches: make(chan []Message, batchesAhead), streaming: opts.Streaming, slot: opts.Slot}
	if err := s.start(ctx, opts); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Stream) start(ctx context.Context, opts StreamOptions) error {
	timeout, err := s.examine(ctx, opts)
	if err != nil {
		return err
	}
	s.every, s.silence = statusEvery, longestSilence
	if timeout > 0 {
		s.every = max(min(s.every, timeout/3), 10*time.Millisecond)
		s.silence = min(s.silence, timeout)
	}
	if s.slot == "" {
		s.slot = fmt.Sprintf("pgcast_tmp_%d", s.conn.PID())
		_, err := pglogrepl.CreateReplicationSlot(ctx, s.conn, s.slot, "pgoutput",
			pglogrepl.CreateReplicationSlotOptions{Temporary: true, Mode: pglogrepl.LogicalReplication, SnapshotAction: "NOEXPORT_SNAPSHOT"})
		if err != nil {
			return fmt.Errorf("make a temporary replication slot: %w", whyNot(err))
		}
	}
	names := make([]string, len(opts.Publications))
	for i, p := range opts.Publications {
		names[i] = `"` + strings.ReplaceAll(p, `"`, `""`) + `"`
	}
	version := 1
	args := []string{"messages 'false'"}
	if opts.Streaming {
		version, args = 2, append(args, "streaming 'true'")
	}
	args = append(args, fmt.Sprintf("proto_version '%d'", version), "publication_names "+literal(strings.Join(names, ",")))
	err = pglogrepl.StartReplication(ctx, s.conn, s.slot, opts.From, pglogrepl.StartReplicationOptions{PluginArgs: args})
	if err != nil {
		if _, failed := errors.AsType[*pgconn.PgError](err); failed && !s.conn.IsClosed() {
			_, _ = s.conn.ReceiveMessage(ctx) // that it is ready for another question
			if _, why := s.examine(ctx, opts); why != nil {
				return why // meanwhile the slot has been lost or dropped
			}
		}
		return fmt.Errorf("stream from replication slot %s: %w", s.slot, whyNot(err))
	}
	return nil
}

// examine finds out beforehand what is in the way of streaming: later it would be a text in
// whatever language the server speaks.
func (s *Stream) examine(ctx context.Context, opts StreamOptions) (timeout time.Duration, err error) {
	quoted := make([]string, len(opts.Publications))
	for i, p := range opts.Publications {
		quoted[i] = literal(p)
	}
	results, err := s.conn.Exec(ctx, `select current_setting('wal_level'), (select setting from pg_settings where name = 'wal_sender_timeout'),
		(select count(*) from pg_publication where pubname in (`+strings.Join(append(quoted, "null"), ", ")+`)),
		(select coalesce(s.wal_status, 'reserved') from pg_replication_slots s
			where s.slot_name = `+literal(opts.Slot)+` and s.slot_type = 'logical' and s.database = current_database())`).ReadAll()
	if err != nil {
		return 0, fmt.Errorf("look whether the WAL can be streamed: %w", whyNot(err))
	}
	if len(results) != 1 || len(results[0].Rows) != 1 || len(results[0].Rows[0]) != 4 {
		return 0, errors.New("look whether the WAL can be streamed: an answer of another form than that to the question")
	}
	row := results[0].Rows[0]
	switch {
	case string(row[0]) != "logical":
		return 0, fmt.Errorf("%w: it is %s", ErrNotLogical, row[0])
	case string(row[2]) != strconv.Itoa(len(opts.Publications)):
		return 0, fmt.Errorf("%w: not all of %s are there", ErrNoPublication, strings.Join(opts.Publications, ", "))
	case opts.Slot != "" && row[3] == nil:
		return 0, fmt.Errorf("%w: %s", ErrSlotMissing, opts.Slot)
	case opts.Slot != "" && string(row[3]) == "lost":
		return 0, fmt.Errorf("%w: %s", ErrSlotLost, opts.Slot)
	}
	ms, err := strconv.ParseInt(string(row[1]), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read wal_sender_timeout: %w", err)
	}
	return time.Duration(ms) * time.Millisecond, nil
}

func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// Slot is the name of the slot it streams from.
func (s *Stream) Slot() string { return s.slot }

// PID is the process id of the WAL sender.
func (s *Stream) PID() uint32 { return s.conn.PID() }

// Batches gives what has arrived, in order. It is closed when Run ends. A batch belongs to
// whoever takes it.
func (s *Stream) Batches() <-chan []Message { return s.batches }

// Confirm lets Postgres forget the WAL before a place: everything that committed before it
// is durable elsewhere. It never waits, and never goes back.
func (s *Stream) Confirm(lsn pglogrepl.LSN) {
	for {
		was := s.confirmed.Load()
		if uint64(lsn) <= was {
			return
		}
		if s.confirmed.CompareAndSwap(was, uint64(lsn)) {
			s.wake.Nudge()
			return
		}
	}
}

// Ask has Postgres say something at once, if it can hear.
func (s *Stream) Ask() {
	s.asked.Store(true)
	s.wake.Nudge()
}

// Run reads until ctx or the connection ends. It tells Postgres of what was confirmed ten
// times a second at most, and that it lives three times in each wal_sender_timeout. A WAL
// sender that says nothing for the whole of it, though asked, is ErrSilent.
func (s *Stream) Run(ctx context.Context) error {
	defer close(s.batches)
	p := pulse{stream: s, every: s.every, heard: time.Now()}
	inStream := false
	var batch []Message
	size := 0
	for {
		if len(batch) > 0 && (size >= batchBytes || len(batch) >= batchMessages || s.conn.Frontend().ReadBufferLen() == 0) {
			if err := p.hand(ctx, batch); err != nil {
				return err
			}
			batch, size = nil, 0
			p.heard = time.Now() // nobody listened meanwhile
		}
		s.wake.taken()
		if err := p.beat(ctx, false); err != nil {
			return err
		}
		raw, err := s.receive(ctx, p.next())
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return fmt.Errorf("read the stream: %w", whyNot(err))
		case raw == nil && time.Since(p.heard) > s.silence:
			return fmt.Errorf("read the stream: %w for %v", ErrSilent, s.silence)
		case raw == nil:
			continue
		}
		p.heard = time.Now()
		switch m := raw.(type) {
		case *pgproto3.ErrorResponse:
			return fmt.Errorf("read the stream: %w", whyNot(pgconn.ErrorResponseToPgError(m)))
		case *pgproto3.CopyDone:
			return errors.New("read the stream: Postgres has ended it")
		case *pgproto3.CopyData:
			message, ask, err := decode(m.Data, &inStream)
			if err != nil {
				return fmt.Errorf("read the stream: %w", err)
			}
			if ask {
				if err := p.beat(ctx, true); err != nil {
					return err
				}
			}
			batch, size = append(batch, message), size+len(m.Data)+64
		}
	}
}

// receive waits for a message, at most d; nil: there was none, or somebody wants something.
func (s *Stream) receive(ctx context.Context, d time.Duration) (pgproto3.BackendMessage, error) {
	nudged, done := s.wake.during(ctx)
	defer done()
	wait, cancel := context.WithTimeout(nudged, d)
	defer cancel()
	raw, err := s.conn.ReceiveMessage(wait)
	if err != nil && wait.Err() != nil && !s.conn.IsClosed() {
		return nil, nil
	}
	return raw, err
}

// Close ends the connection; Run returns.
func (s *Stream) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.conn.Close(ctx) // the server ends the session whether it hears this or not
}

// pulse sends the status updates.
type pulse struct {
	stream *Stream
	every  time.Duration
	sent   time.Time
	heard  time.Time // anything
	told   uint64    // the place told last
}

// confirmEvery bounds how often a place that has moved is told: each takes the WAL sender a
// wake-up.
const confirmEvery = 100 * time.Millisecond

func (p *pulse) next() time.Duration {
	every := p.every
	if p.stream.confirmed.Load() > p.told {
		every = min(every, confirmEvery)
	}
	return max(time.Until(p.sent.Add(every)), time.Millisecond)
}

func (p *pulse) beat(ctx context.Context, now bool) error {
	ask := p.stream.asked.Swap(false)
	if !now && !ask && time.Until(p.sent.Add(p.every)) > 0 && (p.stream.confirmed.Load() <= p.told || time.Since(p.sent) < confirmEvery) {
		return nil
	}
	at := p.stream.confirmed.Load()
	if at == 0 {
		at = 1 // pglogrepl takes 0 for absent; nothing lies before the first place
	}
	// One that has nothing to send says nothing, as long as it hears of us.
	ask = ask || time.Since(p.heard) > p.every/2
	err := pglogrepl.SendStandbyStatusUpdate(ctx, p.stream.conn, pglogrepl.StandbyStatusUpdate{WALWritePosition: pglogrepl.LSN(at), ReplyRequested: ask})
	if err != nil {
		return fmt.Errorf("answer the WAL sender: %w", err)
	}
	p.sent, p.told = time.Now(), at
	return nil
}

// hand waits for the consumer, and goes on answering Postgres meanwhile.
func (p *pulse) hand(ctx context.Context, batch []Message) error {
	for {
		timer := time.NewTimer(p.next())
		select {
		case p.stream.batches <- batch:
			timer.Stop()
			return nil
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
			if err := p.beat(ctx, false); err != nil {
				return err
			}
		}
	}
}

// whyNot adds to Postgres' error which of the reasons above it is.
func whyNot(err error) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return err
	}
	reason := error(nil)
	switch {
	case pg.Code == "42501", pg.Code == "28000": // 28000: also by pg_hba.conf
		reason = ErrNotAllowed
	case pg.Code == "55006":
		reason = ErrSlotInUse
	case pg.Code == "53400", pg.Code == "53300":
		reason = ErrNoSlots
	case pg.Code == "58P01": // a file of the WAL
		reason = ErrSlotLost
	default:
		return err
	}
	return fmt.Errorf("%w: %w", reason, err)
}
