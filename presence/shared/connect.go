package shared

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/pgcast/pgcast"
)

// CheckURL tells why a URL cannot be that of a Redis, or returns nil. The error has nothing
// of the URL in it: there may be a password in that.
func CheckURL(url string) error {
	if _, err := redis.ParseURL(url); err != nil {
		return &pgcast.Error{Code: pgcast.CodeInvalid, Message: "the Redis URL cannot be read", Hint: "redis://user:password@host:6379/0, or rediss:// for TLS"}
	}
	return nil
}

// CheckCAFile tells why a file cannot be one of certificates to trust, or returns nil.
func CheckCAFile(path string) error {
	_, err := readCAs(path)
	return err
}

func readCAs(path string) (*x509.CertPool, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, &pgcast.Error{Code: pgcast.CodeInvalid, Message: fmt.Sprintf("the CA file of Redis cannot be read: %v", err)}
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, &pgcast.Error{Code: pgcast.CodeInvalid, Message: "the CA file of Redis has no certificate", Hint: "PEM: -----BEGIN CERTIFICATE-----"}
	}
	return pool, nil
}

func isInvalid(err error) bool {
	var e *pgcast.Error
	return errors.As(err, &e) && e.Code == pgcast.CodeInvalid
}

// connectOptions are how to connect.
func connectOptions(o *Options) (*redis.Options, error) {
	quiet.Do(func() { redis.SetLogger(silent{}) })
	if err := CheckURL(o.URL); err != nil {
		return nil, err
	}
	opts, err := redis.ParseURL(o.URL)
	if err != nil {
		return nil, err
	}
	if o.CAFile != "" {
		if opts.TLSConfig == nil {
			return nil, &pgcast.Error{Code: pgcast.CodeInvalid, Message: "there is a CA file for Redis, and no TLS", Hint: "write rediss:// in the URL"}
		}
		if opts.TLSConfig.RootCAs, err = readCAs(o.CAFile); err != nil {
			return nil, err
		}
	}
	opts.DialTimeout, opts.ReadTimeout, opts.WriteTimeout = tripTimeout, tripTimeout, tripTimeout
	opts.Dialer = dialer(opts.TLSConfig)
	opts.ContextTimeoutEnabled = true
	opts.DialerRetries = 1
	opts.MaxRetries = -1 // what it does twice it must not do; the callers know better
	opts.ClientName = "pgcast"
	opts.DisableIdentity = true
	return opts, nil
}

// dialer makes connections that notice within seconds that nobody is there any more, also
// the one that only listens.
func dialer(secure *tls.Config) func(ctx context.Context, network, addr string) (net.Conn, error) {
	d := &net.Dialer{Timeout: tripTimeout, KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 3 * time.Second, Interval: time.Second, Count: 3}}
	if secure != nil {
		return (&tls.Dialer{NetDialer: d, Config: secure}).DialContext
	}
	return d.DialContext
}

// What the library would log by itself the breaker says once.
type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}

var quiet sync.Once

// Unproved gives the host that a URL leads to if that is another machine that need not prove
// who it is: without TLS, or with skip_verify. Else, or if it cannot be read, it is empty.
func Unproved(url string) (host string) {
	opts, err := redis.ParseURL(url)
	if err != nil || opts.Network == "unix" || opts.TLSConfig != nil && !opts.TLSConfig.InsecureSkipVerify {
		return ""
	}
	host, _, err = net.SplitHostPort(opts.Addr)
	if err != nil {
		host = opts.Addr
	}
	if ip, err := netip.ParseAddr(host); host == "localhost" || err == nil && ip.Unmap().IsLoopback() {
		return ""
	}
	return host
}
