package bench

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/wire"
)

// The load's clients cut frames wherever reads end, and count what is missing and what
// comes twice.
func TestClientsCount(t *testing.T) {
	for _, c := range []struct {
		seqs          []int64
		lost, doubled int64
		last          int64
	}{
		{seqs: []int64{8, 9, 10}, last: 10},
		{seqs: []int64{8, 10, 11}, lost: 1, last: 11},
		{seqs: []int64{8, 9, 9, 10}, doubled: 1, last: 10},
		{seqs: []int64{8, 11, 9, 10}, lost: 2, doubled: 2, last: 11},
		{seqs: []int64{7, 8}, doubled: 1, last: 8},
	} {
		var stream []byte
		frame := func(text []byte) {
			head := []byte{0x80 | opText, byte(len(text))}
			if len(text) > 125 {
				head = []byte{0x80 | opText, 126, byte(len(text) >> 8), byte(len(text))}
			}
			stream = append(append(stream, head...), text...)
		}
		frame(wire.AppendWelcome(nil, "s"))
		frame(wire.AppendSubscribed(nil, "a", []byte("1"), 7))
		frame([]byte(wire.Heartbeat))
		for _, seq := range c.seqs {
			// Data that looks like what is looked for.
			data := fmt.Sprintf(`{"seq":1,"pad":%q}`, strings.Repeat("x", int(seq)*12))
			frame(wire.AppendEventEnd(wire.AppendEventBody(nil, pgcast.Event{Topic: "a", Name: "e", Data: []byte(data),
				Seq: pgcast.Seq(seq), ID: "1-2", Old: []byte(`{"id":1}`)}), 0))
		}
		for _, size := range []int{1, 7, 130, len(stream)} {
			s := &swarm{socks: []sock{{state: sockSubscribing, after: -1}}}
			k := &s.socks[0]
			var rest []byte
			for from := 0; from < len(stream); from += size {
				rest = append(rest, stream[from:min(from+size, len(stream))]...)
				for {
					op, payload, n := cutFrame(rest)
					if n == 0 {
						break
					}
					rest = rest[n:]
					if err := s.frame(k, op, payload, 0); err != nil {
						t.Fatal(err)
					}
				}
			}
			got := s.seen()
			want := seen{int64(len(c.seqs)) - c.doubled, c.lost, c.doubled}
			if got != want || k.after != c.last || len(rest) != 0 || s.ready != 1 {
				t.Errorf("%v in pieces of %d: %+v after %d, %d bytes left; want %+v after %d", c.seqs, size, got, k.after, len(rest), want, c.last)
			}
		}
	}
}

// What the clients send is what the server reads.
func TestClientsSubscribe(t *testing.T) {
	k := &sock{topic: "room:1", after: 41, id: "a-b"}
	f, err := wire.Parse(k.subscribe())
	if err != nil || f.Type != wire.Subscribe || f.Topic != "room:1" || f.After == nil || *f.After != 41 || f.ID != "a-b" {
		t.Errorf("%s: %+v, %v", k.subscribe(), f, err)
	}
	k = &sock{topic: "a", after: -1}
	if f, err := wire.Parse(k.subscribe()); err != nil || f.After != nil || f.ID != "" {
		t.Errorf("at the head: %+v, %v", f, err)
	}
	sent := appendClientFrame(nil, opText, []byte(strings.Repeat("y", 300)))
	if len(sent) != 308 || sent[1] != 0x80|126 || sent[2] != 1 || sent[3] != 44 {
		t.Errorf("a frame begins % x and has %d bytes", sent[:8], len(sent))
	}
}
