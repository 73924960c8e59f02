package server

import (
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/auth/authtest"
)

// What cannot verify anybody is refused at the start, and what is said names what to set.
func TestAuthenticatorSettings(t *testing.T) {
	secret := authtest.New(t, "HS256").Secret()
	key := authtest.New(t, "ES256").File(t)
	private := filepath.Join(t.TempDir(), "private.pem")
	text := "-----BEGIN PRIVATE KEY-----\n" + "Y2FuYXJ5LWNhbmFyeS1jYW5hcnk=\n" + "-----END PRIVATE KEY-----\n"
	if err := os.WriteFile(private, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		o    AccessOptions
		want string // "": it can be used
	}{
		{"secret", AccessOptions{Secret: secret}, ""},
		{"secret for HS512", AccessOptions{Secret: secret, SecretAlgorithm: "HS512"}, ""},
		{"file", AccessOptions{KeyFiles: []string{key}}, ""},
		{"JWKS", AccessOptions{JWKSURL: "https://idp.example.com/jwks"}, ""},
		{"JWKS on this machine", AccessOptions{JWKSURL: "http://127.0.0.1:1/jwks"}, ""},
		{"all of them", AccessOptions{Secret: secret, KeyFiles: []string{key}, JWKSURL: "https://idp.example.com/jwks"}, ""},
		{"anonymous only", AccessOptions{Anonymous: json.RawMessage("{}")}, ""},
		{"API keys only", AccessOptions{}, ""},
		{"short secret", AccessOptions{Secret: "canary"}, "6 bytes; for HS256 it must have 32 or more"},
		{"secret that is short for HS384", AccessOptions{Secret: secret[:40], SecretAlgorithm: "HS384"}, "40 bytes; for HS384 it must have 48 or more"},
		{"secret for another algorithm", AccessOptions{Secret: secret, SecretAlgorithm: "RS256"}, "a secret is not for"},
		{"file that is not there", AccessOptions{KeyFiles: []string{"/no/such/file.pem"}}, "no such file"},
		{"private key", AccessOptions{KeyFiles: []string{private}}, "it holds a private key"},
		{"key for another algorithm", AccessOptions{KeyFiles: []string{key + "=RS256"}}, "not for RS256"},
		{"key for no algorithm", AccessOptions{KeyFiles: []string{key + "=XX1"}}, "names no algorithm"},
		{"JWKS without https", AccessOptions{JWKSURL: "http://idp.example.com/jwks"}, "use https"},
		{"JWKS with a password", AccessOptions{JWKSURL: "https://u:canary@idp.example.com/jwks"}, "leave it out"},
		{"JWKS at a cloud's secrets", AccessOptions{JWKSURL: "https://169.254.169.254/jwks"}, "no address of an identity provider"},
		{"leeway", AccessOptions{Secret: secret, Leeway: 2 * time.Minute}, "leeway"},
	} {
		chain, err := newAuthenticator(&c.o, nil, nil, slog.New(slog.DiscardHandler))
		if c.want == "" {
			if err != nil || chain == nil {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		var e *pgcast.Error
		if !errors.As(err, &e) || e.Code != pgcast.CodeInvalid || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", c.name, err, c.want)
		}
		if err != nil && (strings.Contains(err.Error(), "canary") || strings.Contains(err.Error(), "Y2FuYXJ5")) {
			t.Errorf("%s: the error shows a secret: %v", c.name, err)
		}
	}
}
