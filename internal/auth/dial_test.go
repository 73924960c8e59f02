package auth

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"
)

// A name may lead anywhere, and elsewhere the next time: addresses are looked at where they
// are dialled, so that nothing is sent to those that are refused.
func TestAddressesAreCheckedWhenDialled(t *testing.T) {
	dial := func(url, address string) error {
		c, err := newFetcher(&TokenOptions{JWKSURL: url, FetchTimeout: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		conn, err := c.Transport.(*http.Transport).DialContext(context.Background(), "tcp", address)
		if err == nil {
			_ = conn.Close()
		}
		return err
	}
	for _, tt := range []struct{ url, address, want string }{
		{"https://idp.example.com/jwks", "169.254.169.254:80", "no address of an identity provider"},
		{"https://idp.example.com/jwks", "[fe80::1]:443", "no address of an identity provider"},
		{"https://idp.example.com/jwks", "[::ffff:169.254.169.254]:443", "no address of an identity provider"},
		{"https://idp.example.com/jwks", "[64:ff9b::169.254.169.254]:443", "no address of an identity provider"},
		{"https://idp.example.com/jwks", "[fd00:ec2::254]:80", "where a cloud tells"},
		{"https://idp.example.com/jwks", "0.0.0.0:443", "no address of an identity provider"},
		{"http://localhost/jwks", "10.0.0.1:80", "not this machine"},
		{"http://localhost/jwks", "[2001:db8::1]:80", "not this machine"},
	} {
		if err := dial(tt.url, tt.address); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s leads to %s: %v; want %q", tt.url, tt.address, err, tt.want)
		}
	}
	for _, address := range []string{"127.0.0.1:1", "[::1]:1"} {
		if err := dial("http://localhost/jwks", address); err == nil || strings.Contains(err.Error(), "this machine") {
			t.Errorf("%s: %v; want that nobody answers", address, err)
		}
	}
}
