package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/coder/websocket"
	"github.com/rs/zerolog"

	"github.com/pgcast/pgcast/internal/judge"
	"github.com/pgcast/pgcast/internal/redistest"
	"github.com/pgcast/pgcast/internal/wire"
)

// Live state with leases short enough to see them end.
const (
	liveTTL   = 3 * time.Second
	liveTopic = "here" // where the readers of the stream are not
)

func liveFlags(redisURL string) []string {
	return []string{"--redis-url", redisURL, "--presence-ttl", liveTTL.String(), "--presence-heartbeat", "1s",
		"--presence-grace", "300ms", "--presence-on", liveTopic}
}

// visitor is a user in one tab: present on the topic, and told who else is. It comes back
// when it is cut off.
type visitor struct {
	key  string
	stop func()

	mu      sync.Mutex
	sees    map[string]string
	joins   map[string]int // announced, beside what it was told at first
	leaves  map[string]int
	doubled []string // keys that joined and were there
	system  []string // what the server said of itself
}

func visit(t *testing.T, s *judge.Server, key string) *visitor {
	t.Helper()
	v := &visitor{key: key, sees: map[string]string{}, joins: map[string]int{}, leaves: map[string]int{}}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			v.connect(ctx, "ws://"+s.Listen+"/ws")
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
	v.stop = func() { cancel(); wg.Wait() }
	t.Cleanup(v.stop)
	return v
}

func (v *visitor) connect(ctx context.Context, url string) {
	ws, _, err := websocket.Dial(ctx, url, nil)
	if err != nil {
		return
	}
	defer ws.CloseNow()
	ws.SetReadLimit(2 << 20)
	for _, text := range []string{fmt.Sprintf(`{"type":"hello","caps":[],"user":{"id":%q}}`, v.key), fmt.Sprintf(`{"type":"subscribe","topic":%q,"ref":1}`, liveTopic)} {
		if ws.Write(ctx, websocket.MessageText, []byte(text)) != nil {
			return
		}
	}
	for {
		_, text, err := ws.Read(ctx)
		if err != nil {
			return
		}
		f, err := wire.ParseServer(text)
		if err == nil && f.Type == wire.Event && strings.HasPrefix(f.Events[0].Topic, "__") {
			v.take(f.Events[0].Topic, f.Events[0].Name, f.Events[0].Data)
		}
	}
}

func (v *visitor) take(topic, name string, data json.RawMessage) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case topic == wire.System:
		v.system = append(v.system, name)
	case topic != wire.PresenceOf+liveTopic:
	case name == "presence_state":
		v.sees = users(data)
	case name == "presence_diff":
		var diff struct{ Joins, Leaves json.RawMessage }
		_ = json.Unmarshal(data, &diff)
		for key := range users(diff.Leaves) {
			delete(v.sees, key)
			v.leaves[key]++
		}
		for key, value := range users(diff.Joins) {
			if was, there := v.sees[key]; there && was == value {
				v.doubled = append(v.doubled, key)
			}
			v.sees[key] = value
			v.joins[key]++
		}
	}
}

func users(data json.RawMessage) map[string]string {
	var raw map[string]json.RawMessage
	_ = json.Unmarshal(data, &raw)
	all := map[string]string{}
	for key, value := range raw {
		all[key] = string(value)
	}
	return all
}

func (v *visitor) look() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Sorted(maps.Keys(v.sees))
}

// party is a running stream test with users on two servers: ann, bob and dora at one, bob
// again and carl at the other.
type party struct {
	*scene
	r        *row
	visitors []*visitor
	left     []*visitor
}

func throw(t *testing.T, r *row, redisURL string) *party {
	t.Helper()
	db := judge.Database(t, nil)
	p := &party{scene: stage(t, db.URL, 2, liveFlags(redisURL)...), r: r}
	if judge.Leading(t, p.servers...) == 1 { // the first sequences, so that the other can be killed without that fault besides
		slices.Reverse(p.servers)
		slices.Reverse(p.topics)
		slices.Reverse(p.pattern)
	}
	for _, key := range []string{"ann", "bob", "dora"} {
		p.visitors = append(p.visitors, visit(t, p.servers[0], key))
	}
	for _, key := range []string{"bob", "carl"} {
		p.visitors = append(p.visitors, visit(t, p.servers[1], key))
	}
	p.write(2)
	p.flow()
	p.see("at first", time.Minute, "ann", "bob", "carl", "dora")
	return p
}

// see waits until all who are there see these users.
func (p *party) see(what string, limit time.Duration, keys ...string) time.Duration {
	p.t.Helper()
	took, ok := time.Duration(0), false
	for began := time.Now(); !ok && took < limit; took = time.Since(began) {
		ok = p.agree(p.visitors, keys)
		if !ok {
			<-time.After(5 * time.Millisecond)
		}
	}
	if !ok {
		for _, v := range p.visitors {
			p.t.Errorf("%s: %s sees %v; want %v", what, v.key, v.look(), keys)
		}
		p.t.FailNow()
	}
	return took
}

func (p *party) agree(all []*visitor, keys []string) bool {
	return !slices.ContainsFunc(all, func(v *visitor) bool { return !slices.Equal(v.look(), keys) })
}

func (p *party) leave(key string) {
	p.visitors = slices.DeleteFunc(p.visitors, func(v *visitor) bool {
		if v.key == key {
			v.stop()
			p.left = append(p.left, v)
		}
		return v.key == key
	})
}

// during probes deliveries for a time.
func (p *party) during(d time.Duration, readers ...*judge.Reader) (took []time.Duration) {
	conn := judge.Connect(p.t, p.url)
	for began := time.Now(); time.Since(began) < d || len(took) < 100; {
		took = append(took, probe(p.t, conn, readers[len(took)%len(readers)], "room:0"))
	}
	return took
}

// close waits for a TTL in which nothing may change any more, and reports.
func (p *party) close(before, beside []time.Duration, right time.Duration, keys ...string) {
	p.t.Helper()
	ghosts := 0
	for began := time.Now(); time.Since(began) < liveTTL+time.Second; <-time.After(20 * time.Millisecond) {
		if !p.agree(p.visitors, keys) {
			ghosts++
		}
	}
	p.end(p.r)
	doubled, gone := 0, 0
	for _, v := range slices.Concat(p.visitors, p.left) {
		doubled += len(v.doubled)
		for _, key := range keys {
			if key != "carl" || p.servers[1].Lives() == 1 { // his server was not killed
				gone += v.leaves[key]
			}
		}
	}
	p.r.count("failures of writers", int(p.writers.Failed.Load()), 0)
	p.r.latency("until everybody sees who is there", []time.Duration{right}, liveTTL)
	p.r.count("looks in a TTL after that at which somebody saw another picture", ghosts, 0)
	p.r.count("users who joined twice", doubled, 0)
	p.r.figure("users announced as gone who were there", fmt.Sprint(gone), "0", gone == 0)
	a, b := percentile(before, 0.99), percentile(beside, 0.99)
	p.r.figure("events' p99 from commit to client, without and beside it", fmt.Sprint(round(a), ", ", round(b)), "within 10 %", float64(b) <= 1.1*float64(a))
}

// away has something wrong with Redis, for a while in which one user comes and one goes. With
// no end it stays so, and all must come right through it.
func away(t *testing.T, number, fault, redisURL string, begins, ends func()) {
	t.Helper()
	r := begin(t, number, fault)
	p := throw(t, r, redisURL)
	before := p.during(0, p.topics...)
	begins()
	p.leave("dora")
	p.visitors = append(p.visitors, visit(t, p.servers[1], "eve"))
	var right time.Duration
	if ends == nil {
		right = p.see("in spite of it", 10*liveTTL, "ann", "bob", "carl", "eve")
	}
	beside := p.during(time.Duration(trials(3, 10, 10))*time.Second, p.topics...)
	if ends != nil {
		ends()
		right = p.see("when it is over", 10*liveTTL, "ann", "bob", "carl", "eve")
	}
	p.close(before, beside, right, "ann", "bob", "carl", "eve")
}

// Redis hangs for longer than any lease.
func TestFaultLive1RedisFrozen(t *testing.T) {
	later(t)
	redis := redistest.Start(t)
	away(t, "L1", "Redis frozen (SIGSTOP) for 10 s", redis.URL, redis.Pause, redis.Resume)
}

// Redis dies and starts again with nothing in it.
func TestFaultLive2RedisKilled(t *testing.T) {
	later(t)
	redis := redistest.Start(t)
	away(t, "L2", "Redis killed, and started again empty", redis.URL, redis.Kill, redis.Restart)
}

// Redis is emptied under the servers, again and again.
func TestFaultLive3RedisFlushed(t *testing.T) {
	redis := redistest.Start(t)
	r := begin(t, "L3", "FLUSHALL under the servers")
	r.trials = trials(2, 5, 20)
	p := throw(t, r, redis.URL)
	before := p.during(0, p.topics...)
	var beside []time.Duration
	for range r.trials {
		redis.Flush()
		beside = append(beside, p.during(0, p.topics...)...)
	}
	redis.Flush()
	p.leave("dora")
	p.visitors = append(p.visitors, visit(t, p.servers[1], "eve"))
	right := p.see("after the last", 10*liveTTL, "ann", "bob", "carl", "eve")
	p.close(before, beside, right, "ann", "bob", "carl", "eve")
}

// Redis answers half a second late.
func TestFaultLive4RedisSlow(t *testing.T) {
	later(t)
	redis := redistest.Start(t)
	proxy := toxiproxy.NewProxy(toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop()), "redis", "127.0.0.1:0", redis.Addr)
	if err := proxy.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Stop)
	slow := func() {
		if _, err := proxy.Toxics.AddToxicJson(strings.NewReader(`{"name":"late","type":"latency","stream":"downstream","attributes":{"latency":500}}`)); err != nil {
			t.Fatal(err)
		}
	}
	away(t, "L4", "Redis answers 500 ms late", "redis://"+proxy.Listen, slow, nil)
}

// A server is killed: its users are gone within a TTL, but for those who are elsewhere too;
// and it comes back with them.
func TestFaultLive5ServerKilled(t *testing.T) {
	later(t)
	redis := redistest.Start(t)
	r := begin(t, "L5", "a server killed (SIGKILL) with users on it")
	p := throw(t, r, redis.URL)
	before := p.during(0, p.topics[0])
	p.servers[1].Kill()
	killed, all := time.Now(), p.visitors
	p.visitors = all[:3] // not those at the killed one
	beside := p.during(liveTTL/2, p.topics[0])
	p.see("after the kill", 10*liveTTL, "ann", "bob", "dora")
	right := time.Since(killed)
	bob := 0
	for _, v := range p.visitors {
		bob += v.leaves["bob"]
	}
	r.count("announcements that bob has gone, who was elsewhere too", bob, 0)
	p.servers[1].Start()
	p.servers[1].WaitReady()
	p.visitors = all
	p.see("when it is back", time.Minute, "ann", "bob", "carl", "dora")
	p.close(before, beside, right, "ann", "bob", "carl", "dora")
}
