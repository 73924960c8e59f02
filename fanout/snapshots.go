package fanout

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/pgcast/pgcast"
)

// Snapshots reads what topics hold.
type Snapshots interface {
	// Snapshot reads what a topic holds now: begin is called once, then take for each row,
	// which is valid only until it returns.
	Snapshot(ctx context.Context, topic string, begin func(pgcast.Snapshot) error, take func(pgcast.Row) error) error
}

// SnapshotOptions say how snapshots are read and kept; the zero value of each field but
// Source and Encoding stands for its default.
type SnapshotOptions struct {
	Source   Snapshots // nil: there are no snapshots
	Encoding SnapshotEncoding
	Reads    int           // of the database at once; the others wait. Default 2
	Timeout  time.Duration // of one read; default 5 min
	// Fresh is for how long those who ask next get the same. Default 1 s.
	Fresh  time.Duration
	Memory int64 // bytes of all that lie in memory; default 16 MiB
	Disk   int64 // bytes of all that lie in files; default 4 GiB
	// Patience is for how long whoever is sent a snapshot from a file may take, once it is
	// read: then it makes room if another one needs that. Default 1 min.
	Patience time.Duration
	Dir      string // of the files; default the system's for temporary ones
}

// SnapshotEncoding is the wire form of a snapshot: of each frame the beginning up to its
// list, an item of the list, and the end. Close is given the moment in the last frame, else
// nil.
type SnapshotEncoding struct {
	Open  func(dst []byte, topic, table, list string) []byte
	Row   func(dst []byte, row []byte) []byte
	Close func(dst []byte, last *pgcast.Snapshot) []byte
}

// snapshots are the spools there are.
type snapshots struct {
	opts    SnapshotOptions
	encode  Encode
	slots   chan struct{}
	metrics *metrics
	logger  *slog.Logger

	mu           sync.Mutex
	current      map[string]*spool // by topic and lens, for those who ask next
	memory, disk int64
	held         []*spool // that are read and lie in files, the oldest first
}

func newSnapshots(opts HubOptions, m *metrics) *snapshots {
	a := &snapshots{opts: opts.Snapshots, encode: opts.Encode, metrics: m, logger: opts.Logger, current: map[string]*spool{}}
	o := &a.opts
	if o.Reads <= 0 {
		o.Reads = 2
	}
	if o.Timeout <= 0 {
		o.Timeout = 5 * time.Minute
	}
	if o.Fresh <= 0 {
		o.Fresh = time.Second
	}
	if o.Memory <= 0 {
		o.Memory = 16 << 20
	}
	if o.Disk <= 0 {
		o.Disk = 4 << 30
	}
	if o.Patience <= 0 {
		o.Patience = time.Minute
	}
	a.slots = make(chan struct{}, o.Reads)
	return a
}

var errNoSnapshots = &pgcast.Error{Code: pgcast.CodeUnsupported, Message: "this server has no snapshots"}

// acquire gives the snapshot of a topic, through a lens unless that is nil: one that is being
// read or was a moment ago, unless it is the one given, or a new one. release must follow.
func (a *snapshots) acquire(topic string, lens Lens, not *spool) (*spool, error) {
	if a.opts.Source == nil {
		return nil, errNoSnapshots
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	key := keyOf(topic, lens)
	s := a.current[key]
	if s != nil && s != not {
		s.users++
		a.metrics.snapshots.WithLabelValues("shared").Inc()
		return s, nil
	}
	if s != nil {
		s.kept = false // whoever has it keeps it
	}
	ctx, cancel := context.WithTimeout(context.Background(), a.opts.Timeout)
	s = &spool{all: a, key: key, topic: topic, lens: lens, begun: make(chan struct{}), cancel: cancel, users: 1, kept: true, flying: true}
	a.current[key] = s
	go a.fly(ctx, s)
	return s, nil
}

// release gives a spool back. The read ends when nobody is left who wants it.
func (a *snapshots) release(s *spool) {
	a.mu.Lock()
	s.users--
	if s.users == 0 && s.flying {
		s.cancel()
		a.unkeep(s)
	}
	gone := s.unused()
	a.mu.Unlock()
	if gone {
		s.destroy()
	}
}

// unkeep gives a spool to nobody else; a.mu is held.
func (a *snapshots) unkeep(s *spool) {
	s.kept = false
	if a.current[s.key] == s {
		delete(a.current, s.key)
	}
}

// unused reports, once, that nobody has the spool any more; snapshots.mu is held.
func (s *spool) unused() bool { return s.users == 0 && !s.kept && !s.flying }

func (a *snapshots) fly(ctx context.Context, s *spool) {
	w := &writer{spool: s}
	err := a.read(ctx, w)
	s.cancel()
	m := a.metrics
	m.snapshotRows.Add(float64(w.rows))
	m.snapshotBytes.Add(float64(s.size))
	if err != nil {
		err = a.failed(s.topic, err)
	}
	s.finish(err)
	isFile := s.file != nil
	a.mu.Lock()
	s.flying = false
	if err != nil || s.users == 0 {
		a.unkeep(s)
	}
	gone := s.unused()
	kept := s.kept
	if isFile && err == nil && !gone {
		s.since = time.Now()
		a.held = append(a.held, s)
	}
	a.mu.Unlock()
	switch {
	case gone:
		s.destroy()
	case kept:
		time.AfterFunc(a.opts.Fresh, func() { a.drop(s) })
	}
}

func (a *snapshots) read(ctx context.Context, w *writer) error {
	select {
	case a.slots <- struct{}{}:
		defer func() { <-a.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	a.metrics.snapshots.WithLabelValues("read").Inc()
	var err error
	if w.lens == nil {
		err = a.opts.Source.Snapshot(ctx, w.topic, w.begin, w.take)
	} else {
		err = w.lens.Snapshot(ctx, w.topic, w.begin, w.take)
	}
	if err != nil {
		return err
	}
	w.mu.Lock()
	at := w.at
	w.mu.Unlock()
	return w.flush(&at)
}

// failed logs, once for all who wait, why a read failed, and gives what they may be told.
func (a *snapshots) failed(topic string, err error) error {
	if errors.Is(err, context.Canceled) {
		return err // nobody waits
	}
	a.metrics.snapshots.WithLabelValues("failed").Inc()
	a.logger.Warn("snapshot: not read", "topic", topic, "error", err)
	var told *pgcast.Error
	if errors.As(err, &told) && told.Message != "" {
		return told
	}
	return &pgcast.Error{Code: pgcast.CodeUnavailable, Message: "the snapshot could not be read", Hint: "try again in a moment"}
}

// drop lets go of a spool that is not fresh any more.
func (a *snapshots) drop(s *spool) {
	a.mu.Lock()
	was := s.kept
	a.unkeep(s)
	gone := was && s.unused()
	a.mu.Unlock()
	if gone {
		s.destroy()
	}
}

// forget lets go of all: what comes next is another log.
func (a *snapshots) forget() {
	a.mu.Lock()
	list := make([]*spool, 0, len(a.current))
	for _, s := range a.current {
		list = append(list, s)
	}
	a.mu.Unlock()
	for _, s := range list {
		a.drop(s)
	}
}

// reserve takes room in memory and on disk, if there is any, or whoever has had one for long
// makes some.
func (a *snapshots) reserve(memory, disk int64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for disk > 0 && a.disk+disk > a.opts.Disk && len(a.held) > 0 && time.Since(a.held[0].since) > a.opts.Patience {
		oldest := a.held[0]
		a.held = a.held[1:]
		a.unkeep(oldest)
		a.mu.Unlock()
		oldest.evict()
		a.mu.Lock()
	}
	if memory > 0 && a.memory+memory > a.opts.Memory || disk > 0 && a.disk+disk > a.opts.Disk {
		return false
	}
	a.memory, a.disk = a.memory+memory, a.disk+disk
	a.told()
	return true
}

func (a *snapshots) free(memory, disk int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.memory, a.disk = a.memory-memory, a.disk-disk
	a.told()
}

func (a *snapshots) told() {
	a.metrics.spooled.WithLabelValues("memory").Set(float64(a.memory))
	a.metrics.spooled.WithLabelValues("disk").Set(float64(a.disk))
}
