package fanout

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/pgcast/pgcast"
)

// spool is one read of a topic's snapshot, encoded as it is sent, for all who asked for it
// at about the same time. It is read at the database's speed, whatever theirs is, and lies
// in memory, or, when it grows, in a file without a name.
type spool struct {
	all    *snapshots
	key    string // of topic and lens
	topic  string
	lens   Lens          // nil: it is the topic's own
	begun  chan struct{} // closed when at is known, or the read has failed before
	cancel context.CancelFunc

	// Guarded by snapshots.mu.
	users  int       // subscriptions and requests
	kept   bool      // for those who ask next
	flying bool      // it is being read
	since  time.Time // it has been read

	mu      sync.Mutex
	at      pgcast.Snapshot // valid once begun, without err
	chunks  []chunk
	memory  []byte
	file    *os.File
	size    int64
	done    bool
	err     error
	waiting map[*Subscription]struct{} // for the next chunk
	grown   chan struct{}              // closed when there is one, or done; nil while nobody waits
}

// chunk is where a frame lies in a spool, and in the frame its list.
type chunk struct {
	from       int64
	size       int32
	open, shut int32 // bytes before the list and after it
	table      string
	list       string
	last       bool
}

// Lists that a frame of a snapshot may have.
const (
	ListRows     = "rows"     // of a table
	ListOversize = "oversize" // keys of a table's rows that are larger than an event may be
	ListEvents   = "events"
)

const (
	chunkBytes  = 60 << 10 // of a frame's list, if it has more than one item
	spoolMemory = 1 << 20  // of one spool; what is larger lies in a file
)

var errSlow = errors.New("it was not taken for long, and another one needs its room")

var errSpoolFull = &pgcast.Error{Code: pgcast.CodeUnavailable, Message: "too many snapshots are on their way", Hint: "try again in a moment"}

// writer makes frames of rows. It is owned by the goroutine that reads.
type writer struct {
	*spool
	list, table string
	items       []byte
	frame       []byte
	rows        int
}

// begin takes the moment of the read.
func (w *writer) begin(at pgcast.Snapshot) error {
	w.mu.Lock()
	w.at = at
	w.mu.Unlock()
	w.list = ListEvents
	if !at.AsOf.IsZero() {
		w.list = ListRows
	}
	close(w.begun)
	return nil
}

// take adds a row.
func (w *writer) take(r pgcast.Row) error {
	w.rows++
	enc := &w.all.opts.Encoding
	from := len(w.items)
	list := ListRows
	switch {
	case r.Event != nil:
		list = ListEvents
		w.items = append(w.all.encode(append(w.items, ','), *r.Event), '}')
	case r.Data != nil:
		w.items = enc.Row(append(w.items, ','), r.Data)
	default:
		list = ListOversize
		w.items = enc.Row(append(w.items, ','), r.Key)
	}
	if from > 0 && (list != w.list || r.Table != w.table || len(w.items) > chunkBytes) {
		next := append([]byte(nil), w.items[from:]...)
		w.items = w.items[:from]
		if err := w.flush(nil); err != nil {
			return err
		}
		w.items = append(w.items, next...)
	}
	w.list, w.table = list, r.Table
	return nil
}

// flush makes a frame of the items there are; the last one has the moment.
func (w *writer) flush(last *pgcast.Snapshot) error {
	enc := &w.all.opts.Encoding
	w.frame = enc.Open(w.frame[:0], w.topic, w.table, w.list)
	c := chunk{table: w.table, list: w.list, open: int32(len(w.frame)), last: last != nil}
	if len(w.items) > 0 {
		w.frame = append(w.frame, w.items[1:]...) // without the first comma
	}
	shut := len(w.frame)
	w.frame = enc.Close(w.frame, last)
	c.shut, c.size = int32(len(w.frame)-shut), int32(len(w.frame))
	w.items = w.items[:0]
	if cap(w.items) > 4*chunkBytes { // after a huge one
		w.items, w.frame = nil, append([]byte(nil), w.frame...)
	}
	return w.add(c, w.frame)
}

// add puts a frame behind the others.
func (s *spool) add(c chunk, text []byte) error {
	c.from = s.size
	onDisk := s.file != nil || s.size+int64(len(text)) > spoolMemory
	if !onDisk && !s.all.reserve(int64(len(text)), 0) {
		onDisk = true
	}
	if onDisk {
		if s.file == nil {
			if err := s.spill(); err != nil {
				return err
			}
		}
		if !s.all.reserve(0, int64(len(text))) {
			return errSpoolFull
		}
		if _, err := s.file.WriteAt(text, c.from); err != nil {
			s.all.free(0, int64(len(text)))
			return fmt.Errorf("write a snapshot's file: %w", err)
		}
	}
	s.mu.Lock()
	if !onDisk {
		s.memory = append(s.memory, text...)
	}
	s.size += int64(len(text))
	s.chunks = append(s.chunks, c)
	s.tell()
	return nil
}

// spill moves what there is to a file that nobody else can open, and that is gone with us.
func (s *spool) spill() error {
	f, err := os.CreateTemp(s.all.opts.Dir, "pgcast-snapshot-*")
	if err != nil {
		return fmt.Errorf("make a snapshot's file: %w", err)
	}
	err = os.Remove(f.Name())
	if err == nil {
		_, err = f.Write(s.memory)
	}
	n := int64(len(s.memory))
	if err == nil && !s.all.reserve(0, n) {
		err = errSpoolFull
	}
	if err != nil {
		_ = f.Close()
		return fmt.Errorf("make a snapshot's file: %w", err)
	}
	s.mu.Lock()
	s.file, s.memory = f, nil
	s.mu.Unlock()
	s.all.free(n, 0)
	return nil
}

// tell wakes those who wait; it is called with s.mu held, and unlocks it.
func (s *spool) tell() {
	waiting := s.waiting
	s.waiting = nil
	if s.grown != nil {
		close(s.grown)
		s.grown = nil
	}
	s.mu.Unlock()
	for sub := range waiting {
		sub.session.kick(sub)
	}
}

// finish notes the end of the read.
func (s *spool) finish(err error) {
	s.mu.Lock()
	s.done, s.err = true, err
	select {
	case <-s.begun:
	default:
		close(s.begun)
	}
	s.tell()
}

// wait gives the moment, once it is known.
func (s *spool) wait(ctx context.Context) (pgcast.Snapshot, error) {
	select {
	case <-s.begun:
	case <-ctx.Done():
		return pgcast.Snapshot{}, ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at, s.err
}

// whole waits for the end of the read and gives its frames.
func (s *spool) whole(ctx context.Context) ([]chunk, error) {
	for {
		s.mu.Lock()
		chunks, done, err := s.chunks, s.done, s.err
		s.mu.Unlock()
		if done {
			return chunks, err
		}
		_, _, more, err := s.read(len(chunks), nil)
		if err != nil {
			return nil, err
		}
		if more == nil {
			continue
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// read gives a frame, which must not be changed. There being none yet, more is not nil, and
// closed when there is; sub, if not nil, is kicked then.
func (s *spool) read(i int, sub *Subscription) (c chunk, text []byte, more <-chan struct{}, err error) {
	s.mu.Lock()
	if i >= len(s.chunks) {
		defer s.mu.Unlock()
		switch {
		case s.err != nil:
			return c, nil, nil, s.err
		case s.done:
			return c, nil, closed, nil
		case s.grown == nil:
			s.grown = make(chan struct{})
		}
		if sub != nil {
			if s.waiting == nil {
				s.waiting = map[*Subscription]struct{}{}
			}
			s.waiting[sub] = struct{}{}
		}
		return c, nil, s.grown, nil
	}
	c = s.chunks[i]
	file, memory := s.file, s.memory
	s.mu.Unlock()
	if file == nil {
		return c, memory[c.from : c.from+int64(c.size)], nil, nil
	}
	text = make([]byte, c.size)
	if _, err := file.ReadAt(text, c.from); err != nil {
		return c, nil, nil, fmt.Errorf("read a snapshot's file: %w", err)
	}
	return c, text, nil, nil
}

var closed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// leave takes a subscription from those who wait.
func (s *spool) leave(sub *Subscription) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.waiting, sub)
}

// evict ends it for those who are still being sent it.
func (s *spool) evict() {
	s.mu.Lock()
	s.err = errSlow
	s.empty()
	s.tell()
}

// destroy gives everything back; nobody uses it any more.
func (s *spool) destroy() {
	s.mu.Lock()
	s.empty()
	s.mu.Unlock()
	s.all.mu.Lock()
	defer s.all.mu.Unlock()
	s.all.held = slices.DeleteFunc(s.all.held, func(h *spool) bool { return h == s })
}

// empty gives the room back; s.mu is held.
func (s *spool) empty() {
	if s.file != nil {
		_ = s.file.Close()
		s.all.free(0, s.size)
	} else {
		s.all.free(int64(len(s.memory)), 0)
	}
	s.file, s.memory, s.chunks = nil, nil, nil
}
