// Package authtest makes keys and tokens for tests.
package authtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Key signs tokens with one algorithm.
type Key struct {
	Algorithm string // as HS256, or EdDSA
	ID        string // the tokens' kid; empty: they have none

	signing any
}

// Algorithms are those that New makes keys for.
var Algorithms = []string{"HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512",
	"ES256", "ES384", "ES512", "EdDSA"}

// RSA keys take long to make, and any will do.
var rsaKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

// New makes a key for an algorithm. Those for RS and PS have the same RSA key in common, see
// Fresh.
func New(tb testing.TB, algorithm string) *Key {
	tb.Helper()
	if algorithm[0] != 'R' && algorithm[0] != 'P' {
		return Fresh(tb, algorithm)
	}
	private, err := rsaKey()
	if err != nil {
		tb.Fatal(err)
	}
	return &Key{Algorithm: algorithm, signing: private}
}

// Fresh is New, with a key of its own for RS and PS, too.
func Fresh(tb testing.TB, algorithm string) *Key {
	tb.Helper()
	k := &Key{Algorithm: algorithm}
	var err error
	switch algorithm {
	case "HS256", "HS384", "HS512":
		b := make([]byte, 32)
		_, err = rand.Read(b)
		k.signing = []byte(hex.EncodeToString(b)) // text, so that it can be a setting
	case "RS256", "RS384", "RS512", "PS256", "PS384", "PS512":
		k.signing, err = rsa.GenerateKey(rand.Reader, 2048)
	case "ES256":
		k.signing, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ES384":
		k.signing, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "ES512":
		k.signing, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case "EdDSA":
		_, k.signing, err = ed25519.GenerateKey(rand.Reader)
	default:
		err = fmt.Errorf("no key for %s", algorithm)
	}
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

// Named gives the same key under another id.
func (k *Key) Named(id string) *Key { return &Key{k.Algorithm, id, k.signing} }

// Secret gives the key of HS256, HS384 and HS512, empty for others.
func (k *Key) Secret() string {
	secret, _ := k.signing.([]byte)
	return string(secret)
}

// Public gives the key that tokens are verified with: for HS256 and its like the secret.
func (k *Key) Public() any {
	if s, ok := k.signing.(crypto.Signer); ok {
		return s.Public()
	}
	return k.signing
}

// Private gives the key that tokens are signed with.
func (k *Key) Private() any { return k.signing }

// PEM gives the public key as files have it.
func (k *Key) PEM(tb testing.TB) []byte {
	tb.Helper()
	der, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		tb.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// File writes the public key to a file of its own and gives its path.
func (k *Key) File(tb testing.TB) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), k.Algorithm+".pem")
	if err := os.WriteFile(path, k.PEM(tb), 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

// JWK gives the public key as a member of a JWKS.
func (k *Key) JWK(tb testing.TB) map[string]any {
	tb.Helper()
	text := base64.RawURLEncoding.EncodeToString
	m := map[string]any{"alg": k.Algorithm, "use": "sig"}
	if k.ID != "" {
		m["kid"] = k.ID
	}
	switch p := k.Public().(type) {
	case *rsa.PublicKey:
		m["kty"], m["n"], m["e"] = "RSA", text(p.N.Bytes()), text(big.NewInt(int64(p.E)).Bytes())
	case *ecdsa.PublicKey:
		b, err := p.Bytes() // 4, x, y
		if err != nil {
			tb.Fatal(err)
		}
		half := len(b) / 2
		m["kty"], m["crv"], m["x"], m["y"] = "EC", p.Curve.Params().Name, text(b[1:1+half]), text(b[1+half:])
	case ed25519.PublicKey:
		m["kty"], m["crv"], m["x"] = "OKP", "Ed25519", text(p)
	case []byte:
		m["kty"], m["k"] = "oct", text(p)
	}
	return m
}

// JWKS gives the text that an identity provider publishes keys with.
func JWKS(tb testing.TB, keys ...*Key) []byte {
	tb.Helper()
	list := []any{}
	for _, k := range keys {
		list = append(list, k.JWK(tb))
	}
	b, err := json.Marshal(map[string]any{"keys": list})
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// Token signs claims. Without an exp they get one in an hour; with one that is nil they have
// none.
func (k *Key) Token(tb testing.TB, claims map[string]any) string {
	tb.Helper()
	claims = maps.Clone(claims)
	if claims == nil {
		claims = map[string]any{}
	}
	if exp, ok := claims["exp"]; !ok {
		claims["exp"] = time.Now().Add(time.Hour).Unix()
	} else if exp == nil {
		delete(claims, "exp")
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		tb.Fatal(err)
	}
	header := map[string]any{"typ": "JWT", "alg": k.Algorithm}
	if k.ID != "" {
		header["kid"] = k.ID
	}
	return k.Sign(tb, header, payload)
}

// Sign signs any payload under any header with the key's algorithm, whatever alg the header
// says.
func (k *Key) Sign(tb testing.TB, header map[string]any, payload []byte) string {
	tb.Helper()
	head, err := json.Marshal(header)
	if err != nil {
		tb.Fatal(err)
	}
	return k.SignText(tb, head, payload)
}

// SignText is Sign for a header that need not be an object.
func (k *Key) SignText(tb testing.TB, header, payload []byte) string {
	tb.Helper()
	text := base64.RawURLEncoding.EncodeToString(header) + "." + base64.RawURLEncoding.EncodeToString(payload)
	sig, err := jwt.GetSigningMethod(k.Algorithm).Sign(text, k.signing)
	if err != nil {
		tb.Fatal(err)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(sig)
}
