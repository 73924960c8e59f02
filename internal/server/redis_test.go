package server

import (
	"strings"
	"testing"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/internal/redistest"
	"github.com/pgcast/pgcast/internal/wire"
)

// While Redis does not answer nobody is made to wait for it, nor told what only it knows,
// long before the next heartbeat; clients hear that it is away and that it is back, from
// when on all is as it was. Events have nothing to do with it.
func TestRedisAway(t *testing.T) {
	t.Parallel()
	db, redis := pgtest.New(t, nil), redistest.Start(t)
	a, b := onRedis(t, db, redis, func(o *Options) {
		o.Live.PresenceTTL, o.Live.PresenceBeat = time.Hour, 20*time.Minute
	})
	ann, bob := a.hello(t, "ann", ""), b.hello(t, "bob", "")
	for _, p := range []*peer{ann, bob} {
		p.send(`{"type":"presence","topic":"lobby","op":"join","ref":1}`)
		p.want(wire.Presence)
	}
	count := func() (int, string) { return get(t, "http://"+a.listen+"/topics/lobby/presence?count") }
	both := func() bool {
		status, text := count()
		return status == 200 && strings.Contains(text, `"count":2`)
	}
	await(t, "both are there", both)
	bob.send(`{"type":"subscribe","topic":"news","ref":2}`)

	redis.Pause()
	for _, p := range []*peer{ann, bob} {
		if said, _ := p.system(); said != `degraded{"backend":"redis"}` {
			t.Fatal(said)
		}
	}
	await(t, "nobody is told a number that only Redis knows", func() bool { status, _ := count(); return status == 503 })
	for _, op := range []string{"count", "list", "join"} {
		began := time.Now()
		p := a.hello(t, "eve", "")
		p.send(`{"type":"presence","topic":"other","op":"` + op + `","ref":1}`)
		if f := p.want(wire.Error); f.Code != pgcast.CodeUnavailable || time.Since(began) > 5*time.Second {
			t.Errorf("%s was answered by %s after %v", op, f.Code, time.Since(began))
		}
	}
	db.Exec(t, `select pgcast.publish('news', 'created', '{}')`)
	bob.hears("news", "created")

	redis.Resume()
	for _, p := range []*peer{ann, bob} {
		if said, _ := p.system(); said != `recovered{"backend":"redis"}` {
			t.Fatal(said)
		}
	}
	await(t, "both are there again", both)
}
