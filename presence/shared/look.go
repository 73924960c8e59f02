package shared

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

//go:embed try.lua
var tryText string

var tryScript = redis.NewScript(tryText)

// Facts are what Look finds out about a Redis. What its user may not see is empty.
type Facts struct {
	Address   string
	Encrypted bool
	Loopback  bool          // it is on this machine
	RoundTrip time.Duration // the nearest of five
	Version   string        // of the server
	Mode      string        // standalone, cluster or sentinel
	Role      string        // master or slave
	Policy    string        // of eviction
	Used, Max int64         // bytes of memory; Max 0: no limit
	User      string        // by ACL
	// Denied are the things that its user may not do and servers do, with the answers.
	Denied []string
	// Deaf tells why a message that was published could not be heard; nil if it was.
	Deaf error
}

// Look connects to a Redis and looks at all that servers need of it. It writes, in one
// script that also takes it away, under a name nobody else uses. Errors mean that it cannot
// be talked to; see Explain.
func Look(ctx context.Context, options *Options) (*Facts, error) {
	o, err := connectOptions(options)
	if err != nil {
		return nil, err
	}
	f := &Facts{Address: o.Addr, Encrypted: o.TLSConfig != nil, User: o.Username}
	dial := o.Dialer
	o.Dialer = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err == nil {
			f.Address = conn.RemoteAddr().String()
		}
		return conn, err
	}
	o.PoolSize = 1
	c := redis.NewClient(o)
	defer c.Close()
	for range 5 {
		began := time.Now()
		if err := c.Ping(ctx).Err(); err != nil && !denied(err) {
			return nil, fmt.Errorf("ask Redis at %s: %w", f.Address, err)
		}
		if took := time.Since(began); f.RoundTrip == 0 || took < f.RoundTrip {
			f.RoundTrip = took
		}
	}
	at, err := netip.ParseAddrPort(f.Address)
	f.Loopback = o.Network == "unix" || err == nil && at.Addr().Unmap().IsLoopback()
	if f.User == "" {
		f.User = "default"
	}
	if err := f.info(ctx, c); err != nil {
		return nil, err
	}
	slot := "doctor:" + rand.Text()
	prefix := options.Prefix
	if prefix == "" {
		prefix = defaultPrefix
	}
	names := &Redis{prefix: prefix}
	if err := f.try(ctx, c, names, slot); err != nil {
		return nil, err
	}
	f.Deaf = hear(ctx, c, names.channel("doctor", slot))
	return f, nil
}

// info reads what the server says of itself, as far as the user may.
func (f *Facts) info(ctx context.Context, c *redis.Client) error {
	text, err := c.Info(ctx).Result()
	switch {
	case denied(err):
		return nil
	case err != nil:
		return fmt.Errorf("ask Redis at %s what it is: %w", f.Address, err)
	}
	is := map[string]string{}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		is[name] = value
	}
	f.Version, f.Mode, f.Role, f.Policy = is["redis_version"], is["redis_mode"], is["role"], is["maxmemory_policy"]
	f.Used, _ = strconv.ParseInt(is["used_memory"], 10, 64)
	f.Max, _ = strconv.ParseInt(is["maxmemory"], 10, 64)
	return nil
}

// try does what servers do. PING and SUBSCRIBE are no commands of scripts.
func (f *Facts) try(ctx context.Context, c *redis.Client, names *Redis, slot string) error {
	if err := c.Ping(ctx).Err(); denied(err) {
		f.Denied = append(f.Denied, err.Error())
	}
	keys := []string{names.Key("doctor", slot, "s"), names.Key("doctor", slot, "h"), names.Key("doctor", slot, "z")}
	answer, err := tryScript.Run(ctx, c, keys, names.channel("doctor", slot), "nobody").StringSlice()
	switch {
	case denied(err):
		f.Denied = append(f.Denied, err.Error())
	case err != nil && !refused(err):
		return fmt.Errorf("run a script in Redis at %s: %w", f.Address, err)
	}
	for ; len(answer) >= 2; answer = answer[2:] {
		if strings.Contains(answer[1], "READONLY") || strings.Contains(answer[1], "OOM") {
			break // of the role, or the memory, and told there
		}
		f.Denied = append(f.Denied, answer[0]+": "+answer[1])
	}
	return nil
}

// hear publishes a message and waits for it.
func hear(ctx context.Context, c *redis.Client, channel string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*tripTimeout)
	defer cancel()
	sub := c.Subscribe(ctx, channel)
	defer sub.Close()
	if _, err := sub.Receive(ctx); err != nil {
		return fmt.Errorf("subscribe to %s: %w", channel, err)
	}
	word := rand.Text()
	if err := c.Publish(ctx, channel, word).Err(); err != nil {
		return fmt.Errorf("publish to %s: %w", channel, err)
	}
	for {
		m, err := sub.ReceiveMessage(ctx)
		switch {
		case err != nil:
			return fmt.Errorf("hear what was published to %s: %w", channel, err)
		case m.Payload == word:
			return nil
		}
	}
}

func denied(err error) bool { return redis.HasErrorPrefix(err, "NOPERM") }

// refused tells of answers that say what is wrong with the server, not with the user.
func refused(err error) bool {
	return redis.HasErrorPrefix(err, "READONLY") || redis.HasErrorPrefix(err, "OOM") || redis.HasErrorPrefix(err, "MISCONF")
}

// Trouble says what kind of thing keeps a Redis from being talked to.
type Trouble int

// The troubles.
const (
	Unreachable Trouble = iota // nobody answers there
	BadSettings                // what was given cannot be used
	BadLogin                   // user or password
	BadTLS                     // a certificate that is not trusted
	Starting                   // it loads its data
)

// Explain tells the kind of an error of Look.
func Explain(err error) Trouble {
	var cert *tls.CertificateVerificationError
	var alert tls.AlertError
	switch {
	case isInvalid(err):
		return BadSettings
	case errors.As(err, &cert), errors.As(err, &alert):
		return BadTLS
	case redis.HasErrorPrefix(err, "WRONGPASS"), redis.HasErrorPrefix(err, "NOAUTH"), strings.Contains(err.Error(), "AUTH"):
		return BadLogin
	case redis.HasErrorPrefix(err, "LOADING"):
		return Starting
	}
	return Unreachable
}
