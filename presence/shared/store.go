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
func (s *Store) Apply(ctx context.Context, batches []presence.Batch) ([][]bool, error) {
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
		calls[i] = call{applyScript, []string{servers, own, version}, args}
	}
	replies, err := s.redis.run(ctx, calls)
	if err != nil {
		return nil, fmt.Errorf("apply %d batches: %w", len(batches), err)
	}
	full := make([][]bool, len(batches))
	for i, b := range batches {
		if replies[i] == nil {
			continue // something was lost
		}
		list, ok := replies[i].([]any)
		if !ok || len(list) != len(b.Changes) {
			return nil, fmt.Errorf("apply to %s: Redis answered %d things for %d", b.Topic, len(list), len(b.Changes))
		}
		full[i] = make([]bool, len(list))
		for j, v := range list {
			full[i][j] = v == int64(1)
		}
	}
	return full, nil
}

// Beat implements [presence.Store].
func (s *Store) Beat(ctx context.Context, holds []presence.Hold) ([]presence.Standing, error) {
	calls := make([]call, len(holds))
	for i, h := range holds {
		servers, own, version := s.keys(h.Topic)
		calls[i] = call{beatScript, []string{servers, own, version}, []any{s.server, s.ttl.Milliseconds(), s.remember(), h.Held}}
	}
	replies, err := s.redis.run(ctx, calls)
	if err != nil {
		return nil, fmt.Errorf("beat for %d topics: %w", len(holds), err)
	}
	standings := make([]presence.Standing, len(holds))
	for i := range holds {
		list, version, err := answer(replies[i])
		if err != nil || len(list) < 1 {
			return nil, fmt.Errorf("beat for %s: Redis answered %v: %w", holds[i].Topic, list, err)
		}
		held, _ := list[0].(int64)
		standings[i] = presence.Standing{Version: version, Held: int(held), Leases: map[string]time.Duration{}}
		for list = list[1:]; len(list) >= 2; list = list[2:] {
			server, lease := peer(list)
			standings[i].Leases[server] = lease
		}
	}
	return standings, nil
}

// Read implements [presence.Store].
func (s *Store) Read(ctx context.Context, topics []string) ([]presence.State, error) {
	calls := make([]call, len(topics))
	for i, topic := range topics {
		servers, _, version := s.keys(topic)
		calls[i] = call{readScript, []string{servers, version}, []any{s.hashes(topic)}}
	}
	replies, err := s.redis.run(ctx, calls)
	if err != nil {
		return nil, fmt.Errorf("read %d topics: %w", len(topics), err)
	}
	states := make([]presence.State, len(topics))
	for i := range topics {
		list, version, err := answer(replies[i])
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", topics[i], err)
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
	return states, nil
}

// answer splits a script's answer into the version and the rest.
func answer(reply any) (rest []any, version uint64, err error) {
	list, ok := reply.([]any)
	if !ok || len(list) == 0 {
		return nil, 0, fmt.Errorf("Redis answered %T", reply)
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

// call is one script's.
type call struct {
	script *redis.Script
	keys   []string
	args   []any
}

// run has scripts run in one round trip; one more where Redis does not know them yet.
func (r *Redis) run(ctx context.Context, calls []call) (replies []any, err error) {
	replies = make([]any, len(calls))
	err = r.Do(ctx, func(ctx context.Context, c *redis.Client) error {
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
		for i, cmd := range cmds {
			v, err := cmd.Result()
			if err != nil && !errors.Is(err, redis.Nil) {
				return err
			}
			replies[i] = v
		}
		return nil
	})
	return replies, err
}
