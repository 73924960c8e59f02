package auth_test

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/auth"
)

// The keys of FuzzToken do not change, so that what was found stays of use.
var (
	fuzzSecret = strings.Repeat("fuzz", 8)
	fuzzKey    = ed25519.NewKeyFromSeed([]byte(fuzzSecret))
)

// FuzzToken: no text makes the verifier fail otherwise than by refusing it, and what it
// accepts is signed, as is found out here without its help.
func FuzzToken(f *testing.F) {
	der, err := x509.MarshalPKIXPublicKey(fuzzKey.Public())
	if err != nil {
		f.Fatal(err)
	}
	path := filepath.Join(f.TempDir(), "key.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600); err != nil {
		f.Fatal(err)
	}
	v := verifier(f, auth.TokenOptions{Secret: fuzzSecret, Files: []string{path}})
	claims := jwt.MapClaims{"sub": "u1", "exp": 4102444800}
	for _, m := range []struct {
		method jwt.SigningMethod
		key    any
	}{{jwt.SigningMethodHS256, []byte(fuzzSecret)}, {jwt.SigningMethodEdDSA, fuzzKey}, {jwt.SigningMethodHS512, []byte(fuzzSecret)},
		{jwt.SigningMethodHS256, []byte(fuzzKey.Public().(ed25519.PublicKey))}, {jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType}} {
		token, err := jwt.NewWithClaims(m.method, claims).SignedString(m.key)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(token)
	}
	f.Fuzz(func(t *testing.T, token string) {
		c, err := v.Authenticate(t.Context(), token)
		if err != nil {
			if codeOf(t, err) != pgcast.CodeUnauthenticated {
				t.Fatalf("the error is %v", err)
			}
			return
		}
		if c.Expires.IsZero() {
			t.Fatal("it never expires")
		}
		text, signature := token[:strings.LastIndexByte(token, '.')], token[strings.LastIndexByte(token, '.')+1:]
		sig, err := base64.RawURLEncoding.DecodeString(signature)
		if err != nil {
			t.Fatal(err)
		}
		mac := hmac.New(sha256.New, []byte(fuzzSecret))
		mac.Write([]byte(text))
		if !hmac.Equal(sig, mac.Sum(nil)) && !ed25519.Verify(fuzzKey.Public().(ed25519.PublicKey), []byte(text), sig) {
			t.Fatalf("accepted, and not signed: %q", token)
		}
	})
}

// FuzzClaims: what is signed may have anything in it; it is refused, or it is an object that
// Postgres can read and that says when it ends.
func FuzzClaims(f *testing.F) {
	v := verifier(f, auth.TokenOptions{Secret: fuzzSecret})
	for _, s := range []string{`{"exp":4102444800}`, `{"exp":"4102444800"}`, `{"exp":4102444800,"exp":1}`, `{"exp":4102444800,"sub":"\u0000"}`,
		`{"exp":4.1e9,"aud":["a","b"],"iss":"x","jti":"y","nbf":1,"iat":2.5}`, `[]`, `null`, `{"exp":4102444800,"x":"\ud800"}`, `{"exp":4102444800,"x":[[[[]]]]}`} {
		f.Add(`{"alg":"HS256"}`, s)
		f.Add(`{"alg":"HS256","kid":"k","typ":"JWT"}`, s)
	}
	f.Fuzz(func(t *testing.T, header, payload string) {
		text := raw(header) + "." + raw(payload)
		sig, err := jwt.SigningMethodHS256.Sign(text, []byte(fuzzSecret))
		if err != nil {
			t.Fatal(err)
		}
		c, err := v.Authenticate(t.Context(), text+"."+base64.RawURLEncoding.EncodeToString(sig))
		if err != nil {
			if codeOf(t, err) != pgcast.CodeUnauthenticated {
				t.Fatalf("the error is %v", err)
			}
			return
		}
		if c.Expires.IsZero() || !strings.HasPrefix(string(c.Decided()), "{") || strings.Contains(string(c.Decided()), `\u0000`) && !strings.Contains(string(c.Decided()), `\\u0000`) {
			t.Fatalf("accepted: %s as %+v", payload, c)
		}
	})
}
