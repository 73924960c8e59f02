package shared

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/json"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/pgcast/pgcast/presence/ratelimit"
)

//go:embed limit.lua
var limitText string

//go:embed limitorder.lua
var limitOrderText string

//go:embed limitbans.lua
var limitBansText string

var (
	limitScript      = redis.NewScript(limitText)
	limitOrderScript = redis.NewScript(limitOrderText)
	limitBansScript  = redis.NewScript(limitBansText)
)

// Limits keeps the buckets and bans of a [ratelimit.Limiter] in Redis, by its clock. All
// are in one slot, so that a call can be charged to several at once.
type Limits struct {
	redis *Redis
	relay *Relay
	id    string // by which its own orders are known
}

var (
	_ ratelimit.Store = (*Limits)(nil)
	_ ratelimit.Relay = (*Limits)(nil)
)

// Limits makes the store of a limiter; other servers' orders come through relay.
func (r *Redis) Limits(relay *Relay) *Limits { return &Limits{r, relay, rand.Text()} }

func (l *Limits) key(rest ...string) string { return l.redis.Key("limit", "limit", rest...) }

// Take implements [ratelimit.Store].
func (l *Limits) Take(ctx context.Context, calls []ratelimit.Call) ([]ratelimit.Verdict, error) {
	keys, places, args := []string{l.key("bans")}, map[string]int{}, []any(nil)
	for _, c := range calls {
		args = append(args, len(c.Names))
		for _, n := range c.Names {
			args = append(args, n)
		}
		args = append(args, len(c.Charges))
		for _, x := range c.Charges {
			place := places[x.Bucket]
			if place == 0 {
				keys = append(keys, l.key("bucket", x.Bucket))
				place = len(keys)
				places[x.Bucket] = place
			}
			args = append(args, place, x.Rule.Count, x.Rule.Per.Microseconds(), x.Rule.Burst, x.Cost, x.Rule.Block.Microseconds())
		}
	}
	list, err := l.run(ctx, limitScript, keys, args)
	if err != nil {
		return nil, fmt.Errorf("charge %d calls: %w", len(calls), err)
	}
	if len(list) != 3*len(calls) {
		return nil, fmt.Errorf("charge %d calls: Redis answered %d numbers", len(calls), len(list))
	}
	verdicts := make([]ratelimit.Verdict, len(calls))
	for i, c := range calls {
		outcome, _ := list[3*i].(int64)
		by, _ := list[3*i+1].(int64)
		wait, _ := list[3*i+2].(int64)
		if outcome < 0 || int(outcome) >= len(outcomes) || outcome == 3 && int(by) >= len(c.Names) || (outcome == 1 || outcome == 2) && int(by) >= len(c.Charges) {
			return nil, fmt.Errorf("charge %d calls: Redis answered %d by %d", len(calls), outcome, by)
		}
		verdicts[i] = ratelimit.Verdict{Outcome: outcomes[outcome], By: int(by), Wait: time.Duration(wait) * time.Microsecond}
	}
	return verdicts, nil
}

var outcomes = [...]ratelimit.Outcome{ratelimit.Allowed, ratelimit.Limited, ratelimit.Blocked, ratelimit.Banned}

// run has one script run and gives its answer, which is a list.
func (l *Limits) run(ctx context.Context, script *redis.Script, keys []string, args []any) ([]any, error) {
	calls := []call{{script: script, keys: keys, args: args}}
	l.redis.run(ctx, calls)
	if err := calls[0].err; err != nil {
		return nil, err
	}
	list, ok := calls[0].reply.([]any)
	if !ok {
		return nil, fmt.Errorf("Redis answered %T", calls[0].reply)
	}
	return list, nil
}

// told is an order on its way to the other servers.
type told struct {
	By      string       `json:"by"`
	Op      ratelimit.Op `json:"op"`
	Name    string       `json:"name"`
	For     int64        `json:"for,omitempty"` // microseconds
	Buckets []string     `json:"buckets,omitempty"`
}

// Do implements [ratelimit.Store].
func (l *Limits) Do(ctx context.Context, o ratelimit.Order) error {
	text, err := json.Marshal(told{l.id, o.Op, o.Name, o.For.Microseconds(), o.Buckets})
	if err != nil {
		return err
	}
	keys := []string{l.key("bans")}
	for _, b := range o.Buckets {
		keys = append(keys, l.key("bucket", b))
	}
	args := []any{string(o.Op), o.Name, o.For.Microseconds(), ratelimit.MaxBans, l.key("told"), text}
	calls := []call{{script: limitOrderScript, keys: keys, args: args}}
	l.redis.run(ctx, calls)
	if err := calls[0].err; err != nil {
		return fmt.Errorf("%s %s: %w", o.Op, o.Name, err)
	}
	if calls[0].reply == int64(0) {
		return ratelimit.ErrTooManyBans
	}
	return nil
}

// Bans implements [ratelimit.Store].
func (l *Limits) Bans(ctx context.Context) ([]ratelimit.Ban, error) {
	list, err := l.run(ctx, limitBansScript, []string{l.key("bans")}, nil)
	if err != nil {
		return nil, fmt.Errorf("read the bans: %w", err)
	}
	bans := make([]ratelimit.Ban, 0, len(list)/2)
	for ; len(list) >= 2; list = list[2:] {
		name, _ := list[0].(string)
		us, _ := list[1].(int64)
		bans = append(bans, ratelimit.Ban{Name: name, For: time.Duration(us) * time.Microsecond})
	}
	return bans, nil
}

// Watch implements [ratelimit.Relay].
func (l *Limits) Watch(f func(ratelimit.Order), ready func()) (stop func()) {
	return l.relay.Listen(l.key("told"), func(payload string) {
		var m told
		if json.Unmarshal([]byte(payload), &m) == nil && m.By != l.id {
			f(ratelimit.Order{Op: m.Op, Name: m.Name, For: time.Duration(m.For) * time.Microsecond, Buckets: m.Buckets})
		}
	}, ready)
}
