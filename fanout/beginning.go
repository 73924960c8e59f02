package fanout

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/pgcast/pgcast"
)

// beginning is the snapshot that a subscription is being sent, before its events. It is
// owned by the session's pump.
type beginning struct {
	spool *spool
	next  int             // frame to be sent
	more  <-chan struct{} // closed when that is there; nil: it may be
	ref   []byte          // of the request
}

// wait waits for the next frame; false means that the session has ended.
func (b *beginning) wait(ctx context.Context) bool {
	if b.more == nil {
		return true
	}
	select {
	case <-b.more:
		return true
	case <-ctx.Done():
		return false
	}
}

// Reasons of a Denied notice that come from here.
const (
	reasonForbidden = "FORBIDDEN"
	reasonInternal  = "INTERNAL_ERROR"
)

var errPatternSnapshot = &pgcast.Error{Code: pgcast.CodeUnsupported, Message: "there is no snapshot of a pattern", Hint: "ask for those of its topics"}

// begin has the snapshot read that a request asks for, or finds one that is.
func (h *Hub) begin(o *Opening) {
	if o.feed.pattern != nil {
		o.err = errPatternSnapshot
	} else {
		o.spool, o.err = h.shots.acquire(o.feed.key, o.req.Lens, nil)
	}
	if o.err != nil {
		h.drop(o)
		o.feed = nil
	}
}

// drop gives back what an opening has.
func (h *Hub) drop(o *Opening) {
	h.release(o.feed)
	if o.spool != nil {
		h.shots.release(o.spool)
		o.spool = nil
	}
}

// resolveSnapshot waits for the moment of the snapshot.
func (h *Hub) resolveSnapshot(ctx context.Context, o *Opening) error {
	for {
		at, err := o.spool.wait(ctx)
		if err != nil {
			return err
		}
		o.place, o.at, o.asOf = int64(at.Seq), at.Position, at.AsOf
		kept, err := h.follows(ctx, o.feed, at)
		if err != nil || kept {
			return err
		}
		// What has to follow it is trimmed already: it is no use to anybody any more.
		fresh, err := h.shots.acquire(o.feed.key, o.req.Lens, o.spool)
		if err != nil {
			return err
		}
		h.shots.release(o.spool)
		o.spool = fresh
	}
}

// follows tells whether the events after a snapshot are still there. Others may have asked
// for it a while ago.
func (h *Hub) follows(ctx context.Context, f *feed, at pgcast.Snapshot) (bool, error) {
	if _, behind, _, _ := f.after(int64(at.Seq), 0, 0, 0, nil); !behind {
		return true, nil
	}
	place, _, err := h.reads.ask(pgcast.Ask{Topic: f.key}).wait(ctx)
	if err != nil {
		return false, err
	}
	// Not the snapshot's own head: what came after that may have come before the feed.
	f.learn(int64(place.Head))
	return place.Tail <= at.Seq+1, nil
}

// pullSnapshot takes the next frame of a subscription's snapshot; see pull. While there is
// none yet, the subscription is kicked when there is.
func (s *Session) pullSnapshot(sub *Subscription) (items []Item, more bool, retry time.Duration) {
	b := sub.begin
	c, text, wait, err := b.spool.read(b.next, sub)
	switch {
	case err != nil:
		reason := reasonInternal
		if errors.Is(err, errForbidden) {
			reason = reasonForbidden
		}
		items = []Item{{Notice: &Notice{Kind: Denied, Topic: sub.feed.key, Ref: b.ref, Reason: reason}}}
		s.remove(sub)
		return items, false, 0
	case text == nil:
		b.more = wait
		return nil, false, 0
	}
	b.next, b.more = b.next+1, nil
	f := &SnapshotFrame{Topic: sub.feed.key, Text: text, Last: c.last}
	if c.last {
		f.Seq = sub.start
		if sub.asOf != nil {
			f.AsOf = *sub.asOf
		}
		s.begun(sub)
		s.caughtUp(sub)
	}
	return []Item{{Snapshot: f}}, true, 0
}

var errForbidden = &pgcast.Error{Code: pgcast.CodeForbidden}

// begun lets go of a subscription's snapshot.
func (s *Session) begun(sub *Subscription) {
	if sub.begin == nil {
		return
	}
	sub.begin.spool.leave(sub)
	s.hub.shots.release(sub.begin.spool)
	sub.begin = nil
}

// Source is what snapshots are read from; nil: there are none.
func (h *Hub) Source() Snapshots { return h.opts.Snapshots.Source }

// SnapshotReader is a snapshot that has been read to its end.
type SnapshotReader struct {
	hub    *Hub
	spool  *spool
	at     pgcast.Snapshot
	chunks []chunk
}

// Snapshot gives a topic's snapshot, through a lens unless that is nil, which others may be
// sent too, once it has been read; that has to begin within the patience. Close must follow.
func (h *Hub) Snapshot(ctx context.Context, topic string, lens Lens, patience time.Duration) (*SnapshotReader, error) {
	s, err := h.shots.acquire(topic, lens, nil)
	if err != nil {
		return nil, err
	}
	r := &SnapshotReader{hub: h, spool: s}
	soon, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if r.at, err = s.wait(soon); err == nil {
		r.chunks, err = s.whole(ctx)
	}
	if err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// Close gives it back.
func (r *SnapshotReader) Close() { r.hub.shots.release(r.spool) }

// At is the moment it was taken.
func (r *SnapshotReader) At() pgcast.Snapshot { return r.at }

// Len is the number of its frames.
func (r *SnapshotReader) Len() int { return len(r.chunks) }

// Table is the table of a frame, and of how many from that one on.
func (r *SnapshotReader) Table(i int) (table string, n int) {
	for table = r.chunks[i].table; i+n < len(r.chunks) && r.chunks[i+n].table == table; {
		n++
	}
	return table, n
}

// Has reports whether one of n frames from i on has such a list.
func (r *SnapshotReader) Has(i, n int, list string) bool {
	return slices.ContainsFunc(r.chunks[i:i+n], func(c chunk) bool { return c.list == list })
}

// Items gives what a frame's list holds, separated by commas, or nothing if its list is
// another one.
func (r *SnapshotReader) Items(i int, list string) ([]byte, error) {
	if r.chunks[i].list != list {
		return nil, nil
	}
	c, text, _, err := r.spool.read(i, nil)
	if err != nil {
		return nil, err
	}
	return text[c.open : c.size-c.shut], nil
}
