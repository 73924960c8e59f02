package shared

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/pgcast/pgcast/presence"
)

//go:embed apply.lua
var applyText string

//go:embed beat.lua
var beatText string

//go:embed read.lua
var readText string

var (
	applyScript = redis.NewScript(applyText)
	beatScript  = redis.NewScript(beatText)
	readScript  = redis.NewScript(readText)
)

// Store is a [presence.Store] in Redis. Each topic has there the servers with the end of
// their leases, one hash of entries for each server, which ends with its lease, and a
// version that counts the batches.
type Store struct {
	redis  *Redis
	kind   string
	server string
	ttl    time.Duration
}

var _ presence.Store = (*Store)(nil)

// Store makes a store of one kind of rosters for one server.
func (r *Redis) Store(kind, server string, ttl time.Duration) *Store {
	return &Store{redis: r, kind: kind, server: server, ttl: ttl}
}

func (s *Store) keys(topic string) (servers, own, version string) {
	return s.redis.Key(s.kind, topic, "servers"), s.hashes(topic) + s.server, s.redis.Key(s.kind, topic, "version")
}

func (s *Store) hashes(topic string) string { return s.redis.Key(s.kind, topic, "at", "") }

// remember is for how long a version outlives the last server: no mirror of it may.
func (s *Store) remember() int64 { return 4 * s.ttl.Milliseconds() }

// Apply implements [presence.Store].
func (s *Store) Apply(ctx context.Context, batches []presence.Batch) []presence.Applied {
	calls := make([]call, len(batches))
	for i, b := range batches {
		servers, own, version := s.keys(b.Topic)
		lease, whole := b.Lease, "0"
		if lease == 0 {
			lease = s.ttl
		}
		if b.Whole {
			whole = "1"
		}
		args := make([]any, 0, 8+2*len(b.Others)+3*len(b.Changes))
		args = append(args, s.server, lease.Milliseconds(), s.remember(), s.redis.channel(s.kind, b.Topic), s.hashes(b.Topic), whole, b.Held, len(b.Others))
		for server, n := range b.Others {
			args = append(args, server, n)
		}
		for _, c := range b.Changes {
			args = append(args, c.Key, []byte(c.Value), c.Max)
		}
		calls[i] = call{script: applyScript, keys: []string{servers, own, version}, args: args}
	}
	s.redis.run(ctx, calls)
	applied := make([]presence.Applied, len(batches))
	for i, c := range calls {
		list, ok := c.reply.([]any)
		switch {
		case c.err != nil:
			applied[i].Err = fmt.Errorf("apply %d changes to %s: %w", len(batches[i].Changes), batches[i].Topic, c.err)
		case c.reply == nil:
			applied[i].Lost = true
		case !ok || len(list) != len(batches[i].Changes):
			applied[i].Err = fmt.Errorf("apply to %s: Redis answered %d things for %d", batches[i].Topic, len(list), len(batches[i].Changes))
		default:
			applied[i].Full = make([]bool, len(list))
			for j, v := range list {
				applied[i].Full[j] = v == int64(1)
			}
		}
	}
	return applied
}

// Beat implements [presence.Store].
func (s *Store) Beat(ctx context.Context, holds []presence.Hold) []presence.Standing {
	calls := make([]call, len(holds))
	for i, h := range holds {
		servers, own, version := s.keys(h.Topic)
		calls[i] = call{script: beatScript, keys: []string{servers, own, version}, args: []any{s.server, s.ttl.Milliseconds(), s.remember(), h.Held}}
	}
	s.redis.run(ctx, calls)
	standings := make([]presence.Standing, len(holds))
	for i, c := range calls {
		list, version, err := c.answer()
		if err != nil || len(list) < 1 {
			standings[i].Err = fmt.Errorf("beat for %s: Redis answered %v: %w", holds[i].Topic, list, err)
			continue
		}
		held, _ := list[0].(int64)
		standings[i] = presence.Standing{Version: version, Held: int(held), Leases: map[string]time.Duration{}}
		for list = list[1:]; len(list) >= 2; list = list[2:] {
			server, lease := peer(list)
			standings[i].Leases[server] = lease
		}
	}
	return standings
}

// Read implements [presence.Store].
func (s *Store) Read(ctx context.Context, topics []string) []presence.State {
	calls := make([]call, len(topics))
	for i, topic := range topics {
		servers, _, version := s.keys(topic)
		calls[i] = call{script: readScript, keys: []string{servers, version}, args: []any{s.hashes(topic)}}
	}
	s.redis.run(ctx, calls)
	states := make([]presence.State, len(topics))
	for i, c := range calls {
		list, version, err := c.answer()
		if err != nil {
			states[i].Err = fmt.Errorf("read %s: %w", topics[i], err)
			continue
		}
		states[i] = presence.State{Version: version, Peers: map[string]presence.Peer{}}
		for ; len(list) >= 3; list = list[3:] {
			server, lease := peer(list)
			flat, _ := list[2].([]any)
			entries := make(map[string]json.RawMessage, len(flat)/2)
			for ; len(flat) >= 2; flat = flat[2:] {
				key, _ := flat[0].(string)
				value, _ := flat[1].(string)
				entries[strings.Clone(key)] = json.RawMessage(value)
			}
			states[i].Peers[server] = presence.Peer{Lease: lease, Entries: entries}
		}
	}
	return states
}

// call is one script's, and what came of it.
type call struct {
	script *redis.Script
	keys   []string
	args   []any
	reply  any // nil for the script's nil
	err    error
}

// answer splits a script's answer into the version and the rest.
func (c *call) answer() (rest []any, version uint64, err error) {
	if c.err != nil {
		return nil, 0, c.err
	}
	list, ok := c.reply.([]any)
	if !ok || len(list) == 0 {
		return nil, 0, fmt.Errorf("Redis answered %T", c.reply)
	}
	text, _ := list[0].(string)
	version, err = strconv.ParseUint(text, 10, 64)
	return list[1:], version, err
}

func peer(list []any) (server string, lease time.Duration) {
	server, _ = list[0].(string)
	ms, _ := list[1].(int64)
	return server, time.Duration(ms) * time.Millisecond
}

// run has scripts run in one round trip; one more where Redis does not know them yet. What
// Redis says to one of them says nothing of the others, nor of Redis.
func (r *Redis) run(ctx context.Context, calls []call) {
	err := r.Do(ctx, func(ctx context.Context, c *redis.Client) error {
		cmds := make([]*redis.Cmd, len(calls))
		_, _ = c.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i, k := range calls {
				cmds[i] = k.script.EvalSha(ctx, p, k.keys, k.args...)
			}
			return nil
		})
		var unknown []int
		for i, cmd := range cmds {
			if redis.HasErrorPrefix(cmd.Err(), "NOSCRIPT") {
				unknown = append(unknown, i)
			}
		}
		if len(unknown) > 0 { // it was not run, so it can be run now
			_, _ = c.Pipelined(ctx, func(p redis.Pipeliner) error {
				for _, i := range unknown {
					cmds[i] = calls[i].script.Eval(ctx, p, calls[i].keys, calls[i].args...)
				}
				return nil
			})
		}
		var unanswered error
		for i, cmd := range cmds {
			reply, err := cmd.Result()
			if errors.Is(err, redis.Nil) {
				reply, err = nil, nil
			}
			calls[i].reply, calls[i].err = reply, err
			if err != nil && !answered(err) && unanswered == nil {
				unanswered = err
			}
		}
		return unanswered
	})
	if err == nil {
		return
	}
	for i := range calls {
		// Where the circuit is open nothing was asked, and no call has an error of its own.
		if own := calls[i].err; own == nil && calls[i].reply == nil || own != nil && !answered(own) {
			calls[i].err = err
		}
	}
}
