package fanout

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/wire"
)

// What was looked at is kept for others for a moment, and never more of it than there is room
// for, however many there are who see something each in their own way.
func TestSightsAreBounded(t *testing.T) {
	t.Parallel()
	s := newWorld(t).server(t, HubOptions{Ring: 8, RingBytes: 4 << 20})
	lens := halves{new(atomic.Int64), new(atomic.Bool)}
	const topics, big = 60, 600 << 10
	var peers []*peer
	for i := range topics {
		for range 2 { // for one alone nothing is kept
			p := s.newPeer(t)
			p.must(t, Request{Topic: fmt.Sprintf("t:%d", i), After: after(0), Lens: lens})
			peers = append(peers, p)
		}
	}
	events := make([]pgcast.Event, 0, 2*topics)
	data := []byte(`"` + strings.Repeat("x", big) + `"`)
	for i := range topics {
		for seq := range 2 {
			events = append(events, pgcast.Event{Topic: fmt.Sprintf("t:%d", i), Name: "said", Data: data, Seq: pgcast.Seq(seq + 1), CreatedAt: time.Now()})
		}
	}
	for i := range events {
		events[i].Position = s.hub.Position() + pgcast.Position(i) + 1
		events[i].ID = pgcast.MakeID(int64(i+1), events[i].CreatedAt)
	}
	s.hub.Append(events)
	for i, p := range peers {
		await(t, fmt.Sprintf("peer %d has got what it sees", i), func() bool { return p.sink.events() == 1 })
	}
	if n := s.hub.sights.bytes.Load(); n > maxAllLooked+4*big {
		t.Errorf("%d bytes are kept of what was looked at", n)
	}
	for _, p := range peers {
		p.session.End(nil)
	}
	await(t, "nothing is kept", func() bool { return s.hub.sights.bytes.Load() == 0 })
}

// An event is kept once, by what was encoded of it, also where that has no line breaks.
func TestFrameKeepsItsEventOnce(t *testing.T) {
	t.Parallel()
	for _, data := range []string{`{"a": 1}`, "{\n  \"a\": \"ä\",\r\n  \"b\": 2\n}"} {
		e := pgcast.Event{Topic: "a", Name: "updated", Data: []byte(data), Old: []byte("{\n\"id\": 7}"), Seq: 1}
		f := newFrame(e, wire.AppendEventBody)
		for _, part := range [][]byte{f.Data, f.Old} {
			if i := strings.Index(string(f.text), string(part)); i < 0 || &f.text[i] != &part[0] {
				t.Errorf("%q is kept beside %s", part, f.text)
			}
		}
	}
}
