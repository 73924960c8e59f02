package auth

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"
)

// newFetcher makes a client for the one address in o.JWKSURL. It follows nothing that leads
// elsewhere, and asks no proxy.
func newFetcher(o *TokenOptions) (*http.Client, error) {
	u, err := url.Parse(o.JWKSURL)
	if err != nil {
		return nil, invalid("the URL of the JWKS cannot be read", "write https://idp.example.com/.well-known/jwks.json")
	}
	local := u.Scheme == "http"
	switch {
	case u.Scheme != "https" && u.Scheme != "http", u.Hostname() == "", u.Opaque != "":
		return nil, invalid(fmt.Sprintf("the URL of the JWKS, %s, is not one of https", u.Redacted()), "write https://idp.example.com/.well-known/jwks.json")
	case u.User != nil:
		return nil, invalid("the URL of the JWKS has a user in it", "keys that verify tokens are public; leave it out")
	case local && !isLocal(u.Hostname()):
		return nil, invalid(fmt.Sprintf("the URL of the JWKS, %s, is of another machine without https", u.Redacted()),
			"whoever is on the way could give keys of his own; use https")
	}
	if a, err := netip.ParseAddr(u.Hostname()); err == nil {
		if err := checkAddress(a, local); err != nil {
			return nil, invalid("the URL of the JWKS cannot be used: "+err.Error(), "")
		}
	}
	// Names are looked up each time, so that addresses are checked where they are dialled.
	d := net.Dialer{Timeout: o.FetchTimeout, Control: func(_, address string, _ syscall.RawConn) error {
		a, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		return checkAddress(a.Addr(), local)
	}}
	return &http.Client{
		Timeout:       o.FetchTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{DialContext: d.DialContext, TLSClientConfig: o.TLS, TLSHandshakeTimeout: o.FetchTimeout,
			ResponseHeaderTimeout: o.FetchTimeout, MaxResponseHeaderBytes: 32 << 10, DisableCompression: true,
			MaxConnsPerHost: 1, IdleConnTimeout: time.Second, ForceAttemptHTTP2: true},
	}, nil
}

func isLocal(host string) bool {
	if a, err := netip.ParseAddr(host); err == nil {
		return a.Unmap().IsLoopback()
	}
	return strings.EqualFold(host, "localhost")
}

// metadata are addresses at which clouds tell machines their secrets, beside those of the
// link.
var metadata = []netip.Addr{netip.MustParseAddr("fd00:ec2::254"), netip.MustParseAddr("100.100.100.200"), netip.MustParseAddr("192.0.0.192")}

// translated are the nets whose addresses have one of IPv4 in them, and where.
var translated = []struct {
	net netip.Prefix
	at  int
}{{netip.MustParsePrefix("64:ff9b::/96"), 12}, {netip.MustParsePrefix("2002::/16"), 2}, {netip.MustParsePrefix("::/96"), 12}}

// checkAddress refuses addresses at which no identity provider is.
func checkAddress(a netip.Addr, local bool) error {
	a = a.Unmap().WithZone("")
	if local && !a.IsLoopback() {
		return fmt.Errorf("%s is not this machine", a)
	}
	for _, t := range translated {
		if b := a.AsSlice(); a.Is6() && t.net.Contains(a) && !a.IsLoopback() {
			v4, _ := netip.AddrFromSlice(b[t.at : t.at+4])
			a = v4
			break
		}
	}
	for _, m := range metadata {
		if a == m {
			return fmt.Errorf("%s is where a cloud tells its machines what is secret", a)
		}
	}
	if a.IsUnspecified() || a.IsMulticast() || a.IsLinkLocalUnicast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return fmt.Errorf("%s is no address of an identity provider", a)
	}
	return nil
}
