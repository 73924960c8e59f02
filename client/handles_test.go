package client_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/client"
	"github.com/pgcast/pgcast/internal/pgtest"
)

const cuts = 200

// judged is what was delivered of topics, against what follows there.
type judged struct {
	mu                      sync.Mutex
	last                    map[string]pgcast.Seq
	published               map[string]int // by data
	lost, doubled, disorder int
}

func (j *judged) take(e client.Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	switch last := j.last[e.Topic]; {
	case e.Seq == last:
		j.doubled++
	case e.Seq < last:
		j.disorder++
	default:
		j.lost += int(e.Seq - last - 1)
		j.last[e.Topic] = e.Seq
	}
	if e.Name == "said" {
		j.published[string(e.Data)]++
	}
}

func (j *judged) at(topic string) pgcast.Seq {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.last[topic]
}

// TestHandlesThroughCuts has topics iterated, one by a slow consumer, a live table kept, a user
// present, and events published, while the connection is cut at steps of the protocol that are
// drawn, also so that nobody is told: nothing is lost, doubled or out of order.
func TestHandlesThroughCuts(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	db.Exec(t, `create table public.t (id int primary key, n int); select pgcast.attach('public.t', topic => 't')`)
	db.Exec(t, `insert into public.t select i, 0 from generate_series(1, 50) i`)
	db.Exec(t, `create table public.still (id int primary key); select pgcast.attach('public.still', topic => 'still')`)
	db.Exec(t, `insert into public.still select generate_series(1, 50)`)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	const seed = 20261127
	network := newCutter(cuts, seed)
	began := time.Now()
	c := start(t, serve(t, db), &client.Options{HTTPClient: network.client(), ReadTimeout: 500 * time.Millisecond, DialTimeout: 500 * time.Millisecond})
	j := &judged{last: map[string]pgcast.Seq{}, published: map[string]int{}}
	reading, stop := context.WithCancel(ctx)
	var readers, writers sync.WaitGroup
	for name, o := range map[string]client.TopicOptions{"a:*": {}, "b:1": {Buffer: 16}, "b:2": {}} {
		o.From = &client.From{}
		topic, every := c.Topic(name, &o), 0
		readers.Go(func() {
			for reading.Err() == nil { // it breaks, too, and goes on
				for e, err := range topic.Events(reading) {
					if err != nil {
						if reading.Err() == nil {
							t.Errorf("%s: %v", name, err)
						}
						return
					}
					j.take(e)
					every++
					if name == "b:1" && every%10 == 0 {
						<-time.After(5 * time.Millisecond) // a consumer that has work to do
					}
					if name == "b:2" && every%100 == 0 {
						break
					}
				}
			}
		})
	}
	readers.Go(func() {
		for reading.Err() == nil {
			held := 0
			for it, err := range c.Topic("still", &client.TopicOptions{Snapshot: true}).Items(reading) {
				s, is := it.(client.Snapshot)
				if is && s.First {
					held = 0
				}
				if held += len(s.Rows); is && s.Last && held != 50 {
					t.Errorf("a snapshot has %d of 50 rows", held)
				}
				if err != nil || s.Last {
					break
				}
			}
		}
	})
	rows := client.NewRows(c.Topic("t", &client.TopicOptions{Snapshot: true}), func(v struct{ ID, N int }) int { return v.ID })
	readers.Go(func() { _ = rows.Run(reading) })
	if _, err := c.Topic("room:1", nil).Presence().Join(ctx, map[string]string{"id": "ann"}); err != nil {
		t.Fatal(err)
	}
	readers.Go(func() { network.hurry(reading) })

	wrote := map[string]pgcast.Seq{}
	var n atomic.Int64
	writers.Go(func() {
		conn := db.Conn(t)
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for i := 0; network.remaining() > 0 && i < 50_000; i++ {
			<-tick.C
			topic := []string{"a:1", "a:2", "b:1", "b:2"}[i%4]
			if _, err := conn.Exec(ctx, fmt.Sprintf(`select pgcast.publish('%s', 'e', '%d') from generate_series(1, %d)`, topic, i, 1+i%3)); err != nil {
				t.Error(err)
				return
			}
			wrote[topic] += pgcast.Seq(1 + i%3)
			if _, err := conn.Exec(ctx, `insert into public.t values ($1 % 70, $1) on conflict (id) do update set n = excluded.n`, i); err != nil {
				t.Error(err)
				return
			}
			if i%10 == 0 {
				if _, err := conn.Exec(ctx, `delete from public.t where id = $1 % 70`, i+35); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	writers.Go(func() {
		topic := c.Topic("a:3", nil)
		for network.remaining() > 0 {
			if _, err := topic.Publish(ctx, "said", n.Load(), nil); err != nil {
				t.Error(err)
				return
			}
			n.Add(1)
			if _, err := topic.Page(ctx, 0, 1); err != nil {
				t.Error(err)
				return
			}
		}
	})
	writers.Wait()
	wrote["a:3"] = pgcast.Seq(n.Load())
	for topic, seq := range wrote {
		for j.at(topic) < seq && ctx.Err() == nil {
			<-time.After(time.Millisecond)
		}
	}
	want := map[int]int{}
	var text []byte
	if err := db.Conn(t).QueryRow(ctx, `select coalesce(json_object_agg(id, n), '{}') from public.t`).Scan(&text); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	same := func() bool {
		got := map[int]int{}
		for key, row := range rows.All() {
			got[key] = row.N
		}
		return maps.Equal(got, want)
	}
	for !same() && ctx.Err() == nil {
		<-time.After(time.Millisecond)
	}
	if !same() {
		t.Error("the live table is not the table")
	}
	if list, err := c.Topic("room:1", nil).Presence().List(ctx); err != nil || len(list) != 1 {
		t.Errorf("%d users are present, %v", len(list), err)
	}
	stop()
	readers.Wait()
	for topic, seq := range wrote {
		if j.last[topic] < seq {
			j.lost += int(seq - j.last[topic])
		}
	}
	twice := 0
	for _, times := range j.published {
		twice += times - 1
	}
	s := c.Stats()
	if j.lost+j.doubled+j.disorder+twice != 0 || s.Holes+s.Duplicates+s.Gaps+s.Resets != 0 || len(j.published) != int(n.Load()) {
		t.Errorf("lost %d, doubled %d, reordered %d, published twice %d; %d of %d published; %+v",
			j.lost, j.doubled, j.disorder, twice, len(j.published), n.Load(), s)
	}
	var steps []string
	for step, n := range network.steps {
		steps = append(steps, fmt.Sprint(step, ": ", n))
	}
	t.Logf("%d cuts (%s), %d events and %d published through %d connections in %v: lost %d, doubled %d, reordered %d, published twice %d; the slow consumer's topic stopped %d times",
		cuts, strings.Join(steps, ", "), s.Events, n.Load(), s.Connects, time.Since(began).Round(time.Millisecond), j.lost, j.doubled, j.disorder, twice, s.Pauses)
}
