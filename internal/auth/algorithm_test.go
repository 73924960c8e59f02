package auth_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/auth"
	"github.com/pgcast/pgcast/internal/auth/authtest"
)

// TestAlgorithms is S4: a key verifies what is signed with its algorithm, and nothing else.
func TestAlgorithms(t *testing.T) {
	signed := map[string]string{} // by algorithm, with the same keys as far as that can be
	keys := map[string]*authtest.Key{}
	for _, algorithm := range authtest.Algorithms {
		keys[algorithm] = authtest.New(t, algorithm)
		signed[algorithm] = keys[algorithm].Token(t, object{"sub": algorithm})
	}
	for _, algorithm := range authtest.Algorithms {
		t.Run(algorithm, func(t *testing.T) {
			v := verifier(t, trust(t, keys[algorithm]))
			for other, token := range signed {
				c, err := v.Authenticate(t.Context(), token)
				switch {
				case other == algorithm && err != nil:
					t.Errorf("its own token is refused: %v", err)
				case other != algorithm && err == nil:
					t.Errorf("a token of %s is accepted, as %s", other, c.Raw)
				case other != algorithm && codeOf(t, err) != pgcast.CodeUnauthenticated:
					t.Errorf("%s: %v", other, err)
				}
			}
			// Every bit of it counts.
			token := []byte(signed[algorithm])
			for i := 0; i < len(token); i += max(1, len(token)/97) {
				changed := slices.Clone(token)
				if changed[i] ^= 4; changed[i] == '.' {
					continue
				}
				if c, err := v.Authenticate(t.Context(), string(changed)); err == nil {
					t.Errorf("accepted with byte %d changed, as %s", i, c.Raw)
				}
			}
			for _, name := range []string{"none", "None", "NONE", "nOnE", "", " " + algorithm, strings.ToLower(algorithm), "HS1", "ES256K", "Ed25519", "RSA-OAEP", "dir"} {
				header, _ := json.Marshal(object{"alg": name})
				payload := strings.Split(signed[algorithm], ".")[1]
				for _, sig := range []string{"", "AA", strings.Split(signed[algorithm], ".")[2]} {
					token := raw(string(header)) + "." + payload + "." + sig
					if _, err := v.Authenticate(t.Context(), token); err == nil && name != algorithm {
						t.Errorf("alg %q with signature %q is accepted", name, sig)
					}
				}
			}
		})
	}
}

// TestAlgorithmConfusion is S4: a public key is not a secret, however it is written, also
// where secrets are accepted beside it.
func TestAlgorithmConfusion(t *testing.T) {
	for _, algorithm := range []string{"RS256", "PS256", "ES256", "EdDSA"} {
		k := authtest.New(t, algorithm)
		der, err := x509.MarshalPKIXPublicKey(k.Public())
		if err != nil {
			t.Fatal(err)
		}
		text := k.PEM(t)
		jwk, _ := json.Marshal(k.JWK(t))
		secrets := map[string][]byte{"PEM": text, "PEM, trimmed": []byte(strings.TrimSpace(string(text))), "DER": der, "JWK": jwk,
			"base64": []byte(base64.StdEncoding.EncodeToString(der)), "nothing": {}}
		if p, ok := k.Public().(*rsa.PublicKey); ok {
			secrets["n"], secrets["PKCS #1"] = p.N.Bytes(), x509.MarshalPKCS1PublicKey(p)
		}
		o := trust(t, k)
		alone := verifier(t, o)
		o.Secret = authtest.New(t, "HS256").Secret()
		beside := verifier(t, o)
		for name, secret := range secrets {
			for _, m := range []jwt.SigningMethod{jwt.SigningMethodHS256, jwt.SigningMethodHS384, jwt.SigningMethodHS512} {
				token, err := jwt.NewWithClaims(m, jwt.MapClaims{"sub": "admin", "exp": in(time.Hour)}).SignedString(secret)
				if err != nil {
					t.Fatal(err)
				}
				for _, v := range []*auth.Verifier{alone, beside} {
					if _, err := v.Authenticate(t.Context(), token); codeOf(t, err) != pgcast.CodeUnauthenticated {
						t.Errorf("%s of the public key for %s as the secret for %s: %v", name, algorithm, m.Alg(), err)
					}
				}
			}
		}
	}
}

// TestKeysInTokensAreNotFollowed is S4: a token that brings its own key, says where it is, or
// whose kid is made for something else, is one of an unknown key; and nobody is asked.
func TestKeysInTokensAreNotFollowed(t *testing.T) {
	var asked atomic.Int64
	evil := authtest.New(t, "ES256")
	evil.ID = "evil"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		_, _ = w.Write(authtest.JWKS(t, evil))
	}))
	defer server.Close()
	ours := authtest.New(t, "ES256")
	v := verifier(t, trust(t, ours))
	der := certificate(t, evil)
	payload, _ := json.Marshal(object{"sub": "admin", "exp": in(time.Hour)})
	for name, more := range map[string]object{
		"jku":                {"jku": server.URL, "kid": "evil"},
		"x5u":                {"x5u": server.URL},
		"jwk":                {"jwk": evil.JWK(t)},
		"x5c":                {"x5c": []string{base64.StdEncoding.EncodeToString(der)}},
		"all of them":        {"jku": server.URL, "x5u": server.URL, "jwk": evil.JWK(t), "x5c": []string{base64.StdEncoding.EncodeToString(der)}},
		"kid, path":          {"kid": "../../../../dev/null"},
		"kid, file":          {"kid": "file:///etc/passwd"},
		"kid, SQL":           {"kid": "x' union select 'secret'; drop table pgcast.api_key; --"},
		"kid, URL":           {"kid": server.URL},
		"kid, template":      {"kid": "${jndi:ldap://127.0.0.1/x}"},
		"kid, zero":          {"kid": "a\u0000b"},
		"kid that is long":   {"kid": strings.Repeat("k", 4000)},
		"kid that is empty":  {"kid": ""},
		"kid with a newline": {"kid": "a\nlevel=ERROR msg=forged"},
	} {
		header := object{"alg": "ES256"}
		for n, value := range more {
			header[n] = value
		}
		if _, err := v.Authenticate(t.Context(), evil.Sign(t, header, payload)); codeOf(t, err) != pgcast.CodeUnauthenticated {
			t.Errorf("%s: %v", name, err)
		}
		// The same with our key is just a token, but for the zero.
		if _, err := v.Authenticate(t.Context(), ours.Sign(t, header, payload)); (err != nil) != (name == "kid, zero") {
			t.Errorf("%s, signed by us: %v", name, err)
		}
	}
	if n := asked.Load(); n > 0 {
		t.Errorf("what tokens name was asked %d times", n)
	}
}

// certificate gives a certificate of a key that has signed it itself.
func certificate(t testing.TB, k *authtest.Key) []byte {
	t.Helper()
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "pgcast test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, k.Public(), k.Private())
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// Files hold keys of all kinds, as all kinds of programs write them.
func TestKeyFiles(t *testing.T) {
	rs, es, ed := authtest.New(t, "RS256"), authtest.New(t, "ES384"), authtest.New(t, "EdDSA")
	block := func(kind string, der []byte) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	}
	private := func(k *authtest.Key) []byte {
		der, err := x509.MarshalPKCS8PrivateKey(k.Private())
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	short, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der := func(public any) []byte {
		b, err := x509.MarshalPKIXPublicKey(public)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, c := range []struct {
		name, suffix string
		text         []byte
		signs        *authtest.Key // nil: the file is refused
		want         string
	}{
		{"PKIX, RSA", "", rs.PEM(t), rs, ""},
		{"PKIX, EC", "", es.PEM(t), es, ""},
		{"PKIX, Ed25519", "", ed.PEM(t), ed, ""},
		{"PKCS #1", "", block("RSA PUBLIC KEY", x509.MarshalPKCS1PublicKey(rs.Public().(*rsa.PublicKey))), rs, ""},
		{"certificate, RSA", "", block("CERTIFICATE", certificate(t, rs)), rs, ""},
		{"certificate, EC", "", block("CERTIFICATE", certificate(t, es)), es, ""},
		{"certificate with its issuer's", "", append(block("CERTIFICATE", certificate(t, ed)), block("CERTIFICATE", certificate(t, es))...), ed, ""},
		{"two keys", "", append(es.PEM(t), ed.PEM(t)...), ed, ""},
		{"text around it", "", []byte("# of the IdP\n" + string(ed.PEM(t)) + "bye\n"), ed, ""},
		{"said for what", "=PS256", rs.PEM(t), authtest.New(t, "PS256"), ""},
		{"said for what it is", "=ES384", es.PEM(t), es, ""},
		{"nothing", "", nil, nil, "nothing in PEM"},
		{"no PEM", "", []byte("secret"), nil, "nothing in PEM"},
		{"private key", "", block("PRIVATE KEY", private(es)), nil, "private key"},
		{"private RSA key", "", block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rs.Private().(*rsa.PrivateKey))), nil, "private key"},
		{"private key behind a public one", "", append(es.PEM(t), block("PRIVATE KEY", private(es))...), nil, "private key"},
		{"broken key", "", block("PUBLIC KEY", []byte("x")), nil, "no key that can be used"},
		{"short RSA key", "", block("PUBLIC KEY", der(&short.PublicKey)), nil, "1024 bits"},
		{"curve of no algorithm", "", block("PUBLIC KEY", der(&p224.PublicKey)), nil, "P-224"},
		{"for another algorithm", "=ES256", es.PEM(t), nil, "not for ES256"},
		{"for another kind", "=RS256", es.PEM(t), nil, "not for RS256"},
		{"for none", "=none", es.PEM(t), nil, "names no algorithm"},
		{"for a secret's", "=HS256", es.PEM(t), nil, "names no algorithm"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "key=1.pem")
			if err := os.WriteFile(path, c.text, 0o600); err != nil {
				t.Fatal(err)
			}
			v, err := auth.NewVerifier(&auth.TokenOptions{Files: []string{path + c.suffix}, Logger: quiet()})
			if c.signs == nil {
				if codeOf(t, err) != pgcast.CodeInvalid || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%v; want %q", err, c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := v.Authenticate(t.Context(), c.signs.Token(t, nil)); err != nil {
				t.Errorf("its token is refused: %v", err)
			}
			if strings.HasPrefix(c.name, "certificate with") {
				if _, err := v.Authenticate(t.Context(), es.Token(t, nil)); err == nil {
					t.Error("tokens of the issuer of a certificate are accepted")
				}
			}
		})
	}
}

// What cannot work is refused at once.
func TestTokenOptions(t *testing.T) {
	for _, c := range []struct {
		o    auth.TokenOptions
		want string
	}{
		{auth.TokenOptions{}, "no keys"},
		{auth.TokenOptions{Secret: strings.Repeat("s", 31)}, "31 bytes"},
		{auth.TokenOptions{Secret: strings.Repeat("s", 47), SecretAlgorithm: "HS384"}, "48 or more"},
		{auth.TokenOptions{Secret: strings.Repeat("s", 63), SecretAlgorithm: "HS512"}, "64 or more"},
		{auth.TokenOptions{Secret: strings.Repeat("s", 64), SecretAlgorithm: "RS256"}, "not for"},
		{auth.TokenOptions{Secret: strings.Repeat("s", 64), SecretAlgorithm: "HS1"}, "not for"},
		{auth.TokenOptions{Secret: strings.Repeat("s", 64), SecretAlgorithm: "none"}, "not for"},
		{auth.TokenOptions{Files: []string{"/does/not/exist.pem"}}, "no such file"},
		{auth.TokenOptions{Secret: strings.Repeat("s", 64), Leeway: time.Minute + 1}, "leeway"},
		{auth.TokenOptions{Secret: strings.Repeat("s", 64), Leeway: -1}, "leeway"},
	} {
		_, err := auth.NewVerifier(&c.o)
		if codeOf(t, err) != pgcast.CodeInvalid || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v; want %q", err, c.want)
		}
		if err != nil && c.o.Secret != "" && strings.Contains(err.Error(), c.o.Secret) {
			t.Errorf("the error shows the secret: %v", err)
		}
	}
}

// BenchmarkTokens is what it costs to verify one.
func BenchmarkTokens(b *testing.B) {
	for _, algorithm := range []string{"HS256", "RS256", "PS256", "ES256", "ES512", "EdDSA"} {
		k := authtest.New(b, algorithm)
		v := verifier(b, trust(b, k))
		token := k.Token(b, object{"sub": "u1", "role": "member", "orgs": []int{1, 2, 3}})
		b.Run(algorithm, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := v.Authenticate(b.Context(), token); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
