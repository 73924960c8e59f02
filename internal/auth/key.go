package auth

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"fmt"
	"slices"
	"strings"
)

// key verifies what is signed with one algorithm, and nothing that is signed with another.
type key struct {
	algorithm string
	id        string // that tokens call it by; empty: it has no name
	public    any    // a secret's bytes, *rsa.PublicKey, *ecdsa.PublicKey or ed25519.PublicKey
}

// Algorithms are those that tokens may be signed with.
var Algorithms = []string{"HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512",
	"ES256", "ES384", "ES512", "EdDSA"}

// hashSize gives how many bytes the hash of an algorithm has, 0 where there is none.
func hashSize(algorithm string) int {
	switch strings.TrimLeft(algorithm, "HRPES") {
	case "256":
		return 32
	case "384":
		return 48
	case "512":
		return 64
	}
	return 0
}

// Bounds of RSA keys in bits: shorter ones can be broken, longer ones only cost time.
const (
	minRSA = 2048
	maxRSA = 8192
)

// newKey binds a key to an algorithm; empty: to the one that is usual for such a key.
func newKey(public any, algorithm string) (key, error) {
	if algorithm != "" && !slices.Contains(Algorithms, algorithm) {
		return key{}, fmt.Errorf("there is no algorithm %.20q here; there are %s", algorithm, strings.Join(Algorithms, ", "))
	}
	var fits []string
	switch p := public.(type) {
	case *rsa.PublicKey:
		if bits := p.N.BitLen(); bits < minRSA || bits > maxRSA || p.E < 3 || p.E%2 == 0 {
			return key{}, fmt.Errorf("an RSA key of %d bits is of no use; it must have %d to %d", bits, minRSA, maxRSA)
		}
		fits = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
	case *ecdsa.PublicKey:
		switch p.Curve.Params().Name {
		case "P-256":
			fits = []string{"ES256"}
		case "P-384":
			fits = []string{"ES384"}
		case "P-521":
			fits = []string{"ES512"}
		default:
			return key{}, fmt.Errorf("there is no algorithm for the curve %s", p.Curve.Params().Name)
		}
	case ed25519.PublicKey:
		fits = []string{"EdDSA"}
	default:
		return key{}, fmt.Errorf("a key of type %T is of no use", public)
	}
	if algorithm == "" {
		algorithm = fits[0]
	}
	if !slices.Contains(fits, algorithm) {
		return key{}, fmt.Errorf("the key is not for %s, but for %s", algorithm, strings.Join(fits, ", "))
	}
	return key{algorithm: algorithm, public: public}, nil
}

// newSecret binds a secret to an algorithm.
func newSecret(secret, algorithm string) (key, error) {
	if algorithm == "" {
		algorithm = "HS256"
	}
	if !strings.HasPrefix(algorithm, "HS") || !slices.Contains(Algorithms, algorithm) {
		return key{}, fmt.Errorf("a secret is not for %.20q, but for HS256, HS384, HS512", algorithm)
	}
	// RFC 7518 3.2: a shorter one can be found by trying.
	if size := hashSize(algorithm); len(secret) < size {
		return key{}, fmt.Errorf("the secret has %d bytes; for %s it must have %d or more", len(secret), algorithm, size)
	}
	return key{algorithm: algorithm, public: []byte(secret)}, nil
}
