package server

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/internal/wire"
)

// heard is what one session was sent.
type heard struct {
	mu      sync.Mutex
	numbers []int
	denied  int
}

func (h *heard) event(data []byte) {
	var d struct{ N int }
	if json.Unmarshal(data, &d) == nil {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.numbers = append(h.numbers, d.N)
	}
}

func (h *heard) deny() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.denied++
}

func (h *heard) denials() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.denied
}

// listen reads a WebSocket until it ends.
func (h *heard) listen(p *peer) {
	for {
		f, err := p.read()
		if err != nil {
			return
		}
		for _, e := range f.Events {
			h.event(e.Data)
		}
		if f.Type == wire.SubscribeDenied {
			h.deny()
		}
	}
}

// stream reads a stream until it ends.
func (h *heard) stream(t *testing.T, g *guarded, credential string) {
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+g.listen+"/topics/feed/sse", nil)
	if err != nil {
		t.Error(err)
		return
	}
	r.Header.Set("Authorization", "Bearer "+credential)
	res, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(r)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Errorf("the stream was not opened: %v %v", res, err)
		return
	}
	defer res.Body.Close()
	event := ""
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		if name, is := strings.CutPrefix(lines.Text(), "event: "); is {
			event = name
		}
		if data, is := strings.CutPrefix(lines.Text(), "data: "); is {
			var f struct{ Data json.RawMessage }
			if event == "" && json.Unmarshal([]byte(data), &f) == nil {
				h.event(f.Data)
			}
			if event == "denied" {
				h.deny()
			}
			event = ""
		}
	}
}

// Grants come and go in the database while somebody writes all the time: what was written
// more than a second after the loss reaches nobody, on either server, in any way. S10.
func TestS10NothingAfterTheLoss(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	servers := guard(t, db, 2, nil)
	const grant = `select pgcast.allow('{subscribe}', 'feed', role => 'reader')`
	const revoke = `delete from pgcast.rule where topic = 'feed'`
	db.Exec(t, grant)
	token := func(sub string) string { return servers[0].token(t, sub, "role", "reader") }

	pool := db.Pool(t)
	writing, stop := context.WithCancel(t.Context())
	defer stop()
	var mu sync.Mutex
	written := []time.Time{} // by number: when it was begun
	var writer sync.WaitGroup
	writer.Go(func() {
		for n := 0; writing.Err() == nil; n++ {
			mu.Lock()
			written = append(written, time.Now())
			mu.Unlock()
			if _, err := pool.Exec(writing, `select pgcast.publish('feed', 'said', $1::jsonb)`, fmt.Sprintf(`{"n":%d}`, n)); err != nil && writing.Err() == nil {
				t.Error(err)
				return
			}
		}
	})
	times := func() []time.Time { mu.Lock(); defer mu.Unlock(); return written }
	wrote := func() int { mu.Lock(); defer mu.Unlock(); return len(written) }

	var all []*heard
	var peers []*peer
	for i := range 4 {
		p, h := servers[i%2].enter(t, token(fmt.Sprint("ws", i))), &heard{}
		go h.listen(p)
		peers, all = append(peers, p), append(all, h)
	}
	type window struct{ from, to time.Time }
	var without []window
	var took []time.Duration
	rounds := 5
	if testing.Short() {
		rounds = 2
	}
	for round := range rounds {
		for _, p := range peers {
			p.send(`{"type":"subscribe","topic":"feed","ref":1}`)
		}
		streams := []*heard{{}, {}}
		var ended sync.WaitGroup
		for i, h := range streams {
			ended.Go(func() { h.stream(t, servers[i], token(fmt.Sprint("sse", i))) })
		}
		now := append(append([]*heard(nil), all...), streams...)
		counts := make([]int, len(now))
		for i, h := range now {
			h.mu.Lock()
			counts[i] = len(h.numbers)
			h.mu.Unlock()
		}
		await(t, "all are sent events", func() bool {
			for i, h := range now {
				h.mu.Lock()
				n := len(h.numbers)
				h.mu.Unlock()
				if n < counts[i]+3 {
					return false
				}
			}
			return true
		})
		db.Exec(t, revoke)
		lost := time.Now()
		await(t, "all are told", func() bool {
			for i, h := range now {
				want := round + 1
				if i >= len(all) {
					want = 1
				}
				if h.denials() < want {
					return false
				}
			}
			return true
		})
		took = append(took, time.Since(lost))
		ended.Wait() // the streams
		at := wrote()
		await(t, "it is written on", func() bool { return time.Since(lost) > 1500*time.Millisecond && wrote() > at+10 })
		without = append(without, window{lost.Add(time.Second), time.Now()})
		db.Exec(t, grant)
		for i, g := range servers {
			who := g.who(t, token(fmt.Sprint("sse", i)))
			await(t, "it is allowed again", func() bool { return g.may(t, who, "subscribe", "feed") })
		}
		for _, h := range streams {
			check(t, h, times(), without[len(without)-1].from, without[len(without)-1].to)
		}
	}
	stop()
	writer.Wait()
	events := 0
	for _, h := range all {
		for _, w := range without {
			check(t, h, times(), w.from, w.to)
		}
		h.mu.Lock()
		events += len(h.numbers)
		h.mu.Unlock()
	}
	t.Logf("%d written, %d events seen while allowed, 0 of those more than a second after the loss", wrote(), events)
	report(t, "the loss of a right under a writer", took)
}

// check sees to it that nothing was heard that was written in a window.
func check(t *testing.T, h *heard, written []time.Time, from, to time.Time) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, n := range h.numbers {
		if n < len(written) && written[n].After(from) && written[n].Before(to) {
			t.Fatalf("event %d reached somebody, written %v after the right was lost and a second", n, written[n].Sub(from))
		}
	}
}
