package auth_test

import (
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/auth"
	"github.com/pgcast/pgcast/internal/auth/authtest"
)

// TestJWKSAddress is S6: the address is one of https, or on this machine, and not one where
// secrets are to be had.
func TestJWKSAddress(t *testing.T) {
	for _, address := range []string{"idp.example.com", "ftp://idp.example.com/x", "file:///etc/passwd", "gopher://127.0.0.1:6379/_x", "http://idp.example.com/jwks",
		"http://192.168.1.1/jwks", "http://localhost.evil.example/jwks", "https://user:secret@idp.example.com/jwks", "https://user@idp.example.com/jwks", "https:///jwks",
		"https:idp.example.com", "https://169.254.169.254/latest/meta-data", "https://[fe80::1]/x", "https://[::ffff:169.254.169.254]/x", "https://[64:ff9b::a9fe:a9fe]/x",
		"https://[2002:a9fe:a9fe::1]/x", "https://[fd00:ec2::254]/x", "https://100.100.100.200/x", "https://0.0.0.0/x", "https://[::]/x", "https://224.0.0.1/x",
		"http://0.0.0.0/x", "http://[::ffff:10.0.0.1]/x", "https://%zz/"} {
		_, err := auth.NewVerifier(&auth.TokenOptions{JWKSURL: address, Logger: quiet()})
		if codeOf(t, err) != pgcast.CodeInvalid {
			t.Errorf("%s: %v", address, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret@") {
			t.Errorf("the error shows a password: %v", err)
		}
	}
	for _, address := range []string{"https://idp.example.com/.well-known/jwks.json", "https://idp.example.com:8443/x?p=1", "http://localhost:8080/x",
		"http://127.0.0.1/x", "http://[::1]:80/x", "https://10.0.0.1/x", "HTTPS://IDP.EXAMPLE.COM/x"} {
		if _, err := auth.NewVerifier(&auth.TokenOptions{JWKSURL: address, Logger: quiet()}); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
}

// With https the provider must show a certificate that counts for its name.
func TestJWKSOverTLS(t *testing.T) {
	k := newKey(t, "ES256", "k")
	p := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(authtest.JWKS(t, k)) }))
	p.Config.ErrorLog = slog.NewLogLogger(quiet().Handler(), slog.LevelError)
	p.StartTLS()
	defer p.Close()
	roots := x509.NewCertPool()
	roots.AddCert(p.Certificate())
	for name, c := range map[string]struct {
		config *tls.Config
		want   pgcast.Code
	}{
		"known":        {&tls.Config{RootCAs: roots}, ""},
		"unknown":      {nil, pgcast.CodeUnavailable},
		"another name": {&tls.Config{RootCAs: roots, ServerName: "idp.invalid"}, pgcast.CodeUnavailable},
	} {
		v := running(t, auth.TokenOptions{JWKSURL: p.URL, TLS: c.config})
		if _, err := v.Authenticate(t.Context(), k.Token(t, nil)); codeOf(t, err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	u, _ := url.Parse(p.URL)
	u.Scheme = "http" // what answers is no JWKS
	v := running(t, auth.TokenOptions{JWKSURL: u.String()})
	if _, err := v.Authenticate(t.Context(), k.Token(t, nil)); codeOf(t, err) != pgcast.CodeUnavailable {
		t.Error(err)
	}
}
