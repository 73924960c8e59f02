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
)

const (
	// Messages are handed on in batches. What is on its way to the consumer is bounded by
	// them: a batch is full when it has this many bytes, so it may be larger by one row.
	batchBytes    = 256 << 10
	batchMessages = 512
	batchesAhead  = 8

	statusEvery = 10 * time.Second // at least; a third of wal_sender_timeout where that is less
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
	streaming bool
	confirmed atomic.Uint64
	slot      string
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
	timeout, err := s.show(ctx, "wal_sender_timeout")
	if err != nil {
		return err
	}
	if s.every = statusEvery; timeout > 0 {
		s.every = max(min(s.every, timeout/3), 10*time.Millisecond)
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
	args = append(args, fmt.Sprintf("proto_version '%d'", version), "publication_names '"+strings.ReplaceAll(strings.Join(names, ","), "'", "''")+"'")
	err = pglogrepl.StartReplication(ctx, s.conn, s.slot, opts.From, pglogrepl.StartReplicationOptions{PluginArgs: args})
	if err != nil {
		return fmt.Errorf("stream from replication slot %s: %w", s.slot, whyNot(err))
	}
	return nil
}

// show reads a setting that is a time.
func (s *Stream) show(ctx context.Context, name string) (time.Duration, error) {
	r := s.conn.Exec(ctx, "show "+name)
	results, err := r.ReadAll()
	if err != nil || len(results) == 0 || len(results[0].Rows) == 0 {
		return 0, fmt.Errorf("show %s: %w", name, err)
	}
	text := string(results[0].Rows[0][0])
	if strings.HasSuffix(text, "min") {
		text = strings.TrimSuffix(text, "in")
	} else if strings.HasSuffix(text, "d") {
		days, _ := strconv.Atoi(strings.TrimSuffix(text, "d"))
		return time.Duration(days) * 24 * time.Hour, nil
	}
	if text == "0" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("show %s: %w", name, err)
	}
	return d, nil
}

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
			return
		}
	}
}

// Run reads until ctx or the connection ends. It tells Postgres of what was confirmed ten
// times a second at most, and that it lives three times in each wal_sender_timeout.
func (s *Stream) Run(ctx context.Context) error {
	defer close(s.batches)
	p := pulse{stream: s, every: s.every}
	inStream := false
	var batch []Message
	size := 0
	for {
		if len(batch) > 0 && (size >= batchBytes || len(batch) >= batchMessages || s.conn.Frontend().ReadBufferLen() == 0) {
			if err := p.hand(ctx, batch); err != nil {
				return err
			}
			batch, size = nil, 0
		}
		if err := p.beat(ctx, false); err != nil {
			return err
		}
		wait, cancel := context.WithTimeout(ctx, p.next())
		raw, err := s.conn.ReceiveMessage(wait)
		cancel()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && pgconn.Timeout(err) && !s.conn.IsClosed():
			continue
		case err != nil:
			return fmt.Errorf("read the stream: %w", whyNot(err))
		}
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

// Close ends the connection; Run returns.
func (s *Stream) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.conn.Close(ctx) // the server ends the session whether it hears this or not
}

func decode(data []byte, inStream *bool) (m Message, ask bool, err error) {
	if len(data) == 0 {
		return m, false, errors.New("an empty message")
	}
	switch data[0] {
	case pglogrepl.PrimaryKeepaliveMessageByteID:
		k, err := pglogrepl.ParsePrimaryKeepaliveMessage(data[1:])
		return Message{End: k.ServerWALEnd}, k.ReplyRequested, err
	case pglogrepl.XLogDataByteID:
		x, err := pglogrepl.ParseXLogData(data[1:])
		if err != nil {
			return m, false, err
		}
		m.End = x.ServerWALEnd
		m.Message, err = pglogrepl.ParseV2(x.WALData, *inStream)
		switch m.Message.(type) {
		case *pglogrepl.StreamStartMessageV2:
			*inStream = true
		case *pglogrepl.StreamStopMessageV2:
			*inStream = false
		}
		return m, false, err
	}
	return m, false, fmt.Errorf("a message of unknown kind %q", data[0])
}

// pulse sends the status updates.
type pulse struct {
	stream *Stream
	every  time.Duration
	sent   time.Time
	told   uint64 // the place told last
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
	if !now && time.Until(p.sent.Add(p.every)) > 0 && (p.stream.confirmed.Load() <= p.told || time.Since(p.sent) < confirmEvery) {
		return nil
	}
	at := p.stream.confirmed.Load()
	if at == 0 {
		at = 1 // pglogrepl takes 0 for absent; nothing lies before the first place
	}
	err := pglogrepl.SendStandbyStatusUpdate(ctx, p.stream.conn, pglogrepl.StandbyStatusUpdate{WALWritePosition: pglogrepl.LSN(at)})
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
	case strings.Contains(pg.Message, "wal_level"):
		reason = ErrNotLogical
	case pg.Code == "42501", strings.Contains(pg.Message, "no pg_hba.conf entry"):
		reason = ErrNotAllowed
	case pg.Code == "42704" && strings.Contains(pg.Message, "replication slot"):
		reason = ErrSlotMissing
	case pg.Code == "55006":
		reason = ErrSlotInUse
	case pg.Code == "53400", pg.Code == "53300":
		reason = ErrNoSlots
	case pg.Code == "55000" && strings.Contains(pg.Message, "replication slot"), pg.Code == "58P01" && strings.Contains(pg.Message, "WAL segment"):
		reason = ErrSlotLost
	default:
		return err
	}
	return fmt.Errorf("%w: %w", reason, err)
}
