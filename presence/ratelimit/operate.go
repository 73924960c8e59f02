package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pgcast/pgcast"
)

// MaxBan is the longest ban. What must last belongs into access control.
const MaxBan = 365 * 24 * time.Hour

// Ban denies everything that can be limited, on all servers, to whoever has a key, from
// now on for a while of 1 s to MaxBan. A ban that is there already is replaced. Errors are
// *[pgcast.Error]: code invalid, too_many, or unavailable: the store does not answer, and
// this server alone knows of it until the store is back.
func (l *Limiter) Ban(ctx context.Context, kind Kind, key string, d time.Duration) error {
	if d < time.Second || d > MaxBan {
		return invalid("write a time from 1s to "+MaxBan.String(), "a ban of %s cannot be", d)
	}
	return l.order(ctx, OpBan, kind, key, d)
}

// Unban ends a ban, on all servers. There need not be one. Errors are those of Ban.
func (l *Limiter) Unban(ctx context.Context, kind Kind, key string) error {
	return l.order(ctx, OpUnban, kind, key, 0)
}

// Reset fills a key's buckets of all rules and ends blocks, on all servers; bans stay.
// Errors are those of Ban.
func (l *Limiter) Reset(ctx context.Context, kind Kind, key string) error {
	return l.order(ctx, OpReset, kind, key, 0)
}

func (l *Limiter) order(ctx context.Context, op Op, kind Kind, key string, d time.Duration) error {
	if !slices.Contains(kinds, kind) {
		return invalid("write one of "+joined(kinds), "%.40q is nothing to count by", string(kind))
	}
	if key == "" || len(key) > maxKey {
		return invalid(fmt.Sprintf("1 to %d bytes", maxKey), "a key of %d bytes cannot be", len(key))
	}
	if kind == IP {
		addr := parseAddr(key)
		if !addr.IsValid() && key != AddressKey(addr) {
			return invalid("write one address, as 203.0.113.7 or 2001:db8::1", "%.40q is not an address", key)
		}
		key = AddressKey(addr)
	}
	o := Order{Op: op, Name: name(kind, key), For: d}
	if op == OpReset {
		for i := range l.opts.Rules {
			// Of another kind, too: who lacks a subject is counted by its session.
			o.Buckets = append(o.Buckets, l.opts.Rules[i].prefix()+key)
		}
	}
	var err error
	if l.opts.Store != nil {
		err = l.opts.Store.Do(ctx, o)
		if refused := new(pgcast.Error); err != nil && errors.As(err, &refused) && refused.Code == pgcast.CodeTooMany {
			return err
		}
	}
	if !l.apply(o) {
		return ErrTooManyBans
	}
	if err != nil {
		l.opts.Logger.Warn("rate limit: the other servers could not be told", "op", op, "error", err)
		return &pgcast.Error{Code: pgcast.CodeUnavailable, Message: "Redis does not answer: this server alone knows of it, until Redis is back",
			Hint: "say it to each server, and again when Redis answers"}
	}
	l.Refresh() // orders given elsewhere at the same time may have come the other way round
	return nil
}

// ErrTooManyBans says that there are MaxBans already.
var ErrTooManyBans = &pgcast.Error{Code: pgcast.CodeTooMany, Message: fmt.Sprintf("there are %d bans already", MaxBans), Hint: "end some first"}

// apply does here what is ordered.
func (l *Limiter) apply(o Order) bool {
	if o.Op == OpReset {
		l.local.reset(o.Buckets)
		return true
	}
	return l.bans.do(o)
}

// Bans gives the bans this server knows of, by name.
func (l *Limiter) Bans() []Ban { return l.bans.list() }

// Rules gives the rules.
func (l *Limiter) Rules() []Rule { return slices.Clone(l.opts.Rules) }

// Refresh has the bans read from the store soon.
func (l *Limiter) Refresh() {
	select {
	case l.refresh <- struct{}{}:
	default:
	}
}

const (
	refreshEvery = 30 * time.Second
	refreshWait  = 5 * time.Second
)

// Run hears of other servers' orders until ctx ends.
func (l *Limiter) Run(ctx context.Context) error {
	if l.opts.Store == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	if l.opts.Relay != nil {
		defer l.opts.Relay.Watch(func(o Order) { l.apply(o) }, l.Refresh)()
	}
	tick := time.NewTicker(refreshEvery)
	defer tick.Stop()
	for {
		l.load(ctx)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-l.refresh:
		case <-tick.C:
		}
	}
}

// load reads all bans. What a store that does not answer had said before stays.
func (l *Limiter) load(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, refreshWait)
	defer cancel()
	for began := l.bans.begin(); ; began = l.bans.begin() {
		list, err := l.opts.Store.Bans(ctx)
		if err != nil {
			if !errors.Is(err, pgcast.ErrUnavailable) && ctx.Err() == nil {
				l.opts.Logger.Warn("rate limit: the bans could not be read", "error", err)
			}
			return
		}
		if l.bans.replace(list, began) {
			return
		}
	}
}
