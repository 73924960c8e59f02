package auth_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/auth"
	"github.com/pgcast/pgcast/internal/auth/authtest"
)

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func verifier(t testing.TB, o auth.TokenOptions) *auth.Verifier {
	t.Helper()
	if o.Logger == nil {
		o.Logger = quiet()
	}
	v, err := auth.NewVerifier(&o)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// codeOf gives the code of an error, empty for none.
func codeOf(t testing.TB, err error) pgcast.Code {
	t.Helper()
	if err == nil {
		return ""
	}
	var e *pgcast.Error
	if !errors.As(err, &e) {
		t.Fatalf("%v is no *pgcast.Error", err)
	}
	return e.Code
}

// trust gives the options of a verifier that knows a key.
func trust(t testing.TB, k *authtest.Key) auth.TokenOptions {
	t.Helper()
	if s := k.Secret(); s != "" {
		return auth.TokenOptions{Secret: s, SecretAlgorithm: k.Algorithm}
	}
	return auth.TokenOptions{Files: []string{k.File(t) + "=" + k.Algorithm}}
}

type object = map[string]any

func raw(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }

// In tokens, times are in seconds from now.
func in(d time.Duration) int64 { return time.Now().Add(d).Unix() }

const (
	noToken   = "this is not a token"
	badKey    = "not signed with a key that is known"
	badHeader = "header says what is not understood"
	expired   = "the token has expired"
	early     = "the token is not valid yet"
	others    = "from another issuer or for another audience"
	noExp     = "the token has no exp"
	unread    = "the token's claims cannot be read"
)

// TestTokens is S4 of what strangers try with tokens, but for what they try with algorithms:
// see TestAlgorithms.
func TestTokens(t *testing.T) {
	k := authtest.New(t, "HS256")
	rs := authtest.New(t, "RS256")
	forged := authtest.Fresh(t, "RS256")
	o := trust(t, k)
	o.Files = []string{rs.File(t)}
	o.Issuers, o.Audiences = []string{"https://idp.example", "https://old.example"}, []string{"pgcast", "api"}
	o.Leeway = 10 * time.Second
	v := verifier(t, o)
	good := func(change object) object {
		c := object{"iss": "https://idp.example", "aud": "pgcast", "sub": "u1", "jti": "t1", "role": "member"}
		for name, value := range change {
			if c[name] = value; value == "-" {
				delete(c, name)
			}
		}
		return c
	}
	with := func(change object) string { return k.Token(t, good(change)) }
	text := func(payload string) string { return k.Sign(t, object{"alg": "HS256"}, []byte(payload)) }
	under := func(header object) string {
		payload, _ := json.Marshal(good(object{"exp": in(time.Hour)}))
		return k.Sign(t, header, payload)
	}
	whole := func(more string) string {
		return text(fmt.Sprintf(`{"iss":"https://idp.example","aud":"pgcast","exp":%d%s}`, in(time.Hour), more))
	}
	parts := strings.Split(with(nil), ".")
	for _, c := range []struct{ name, token, want string }{
		{"good", with(nil), ""},
		{"good, of the other key", rs.Token(t, good(nil)), ""},
		{"good, of the other issuer", with(object{"iss": "https://old.example"}), ""},
		{"good, for the other audience", with(object{"aud": "api"}), ""},
		{"good, for several audiences", with(object{"aud": []string{"other", "api"}}), ""},
		{"good, without sub, jti, role", with(object{"sub": "-", "jti": "-", "role": "-"}), ""},
		{"good, with a fraction of a second", with(object{"exp": float64(in(time.Hour)) + 0.5}), ""},
		{"good, of now", with(object{"iat": in(0), "nbf": in(0)}), ""},
		{"good, expired within the leeway", with(object{"exp": in(-5 * time.Second)}), ""},
		{"good, early within the leeway", with(object{"nbf": in(5 * time.Second), "iat": in(5 * time.Second)}), ""},
		{"good, with a kid that nobody has", under(object{"alg": "HS256", "kid": "x"}), ""},
		{"good, typ of an access token", under(object{"alg": "HS256", "typ": "at+jwt"}), ""},
		{"good, typ with application/", under(object{"alg": "HS256", "typ": "application/JWT"}), ""},
		{"good, claims nested 31 deep", whole(`,"x":` + strings.Repeat("[", 30) + strings.Repeat("]", 30)), ""},
		{"good, claims in Chinese", with(object{"name": "李白", "pair": "😀"}), ""},
		{"good, a pair of escapes", whole(`,"x":"\ud83d\ude00"`), ""},

		{"nothing", "", noToken},
		{"a word", "token", noToken},
		{"two parts", parts[0] + "." + parts[1], noToken},
		{"four parts", with(nil) + ".", noToken},
		{"five parts, as of JWE", "a.b.c.d.e", noToken},
		{"points only", "..", noToken},
		{"Bearer before it", "Bearer " + with(nil), noToken},
		{"a blank behind it", with(nil) + " ", noToken},
		{"a newline in it", parts[0] + ".\n" + parts[1] + "." + parts[2], noToken},
		{"a newline in the signature", parts[0] + "." + parts[1] + "." + parts[2][:9] + "\n" + parts[2][9:], noToken},
		{"a newline behind it", with(nil) + "\n", noToken},
		{"padding", parts[0] + "." + parts[1] + "." + parts[2] + "=", noToken},
		{"base64 that is not for URLs", parts[0] + "." + parts[1] + ".+/+/", noToken},
		{"loose last bits", parts[0] + "." + parts[1] + "." + loosen(parts[2]), noToken},
		{"header that is not base64", "!." + parts[1] + "." + parts[2], noToken},
		{"header that is not JSON", k.SignText(t, []byte("alg"), []byte("{}")), noToken},
		{"header that is an array", k.SignText(t, []byte(`["HS256"]`), []byte("{}")), noToken},
		{"header that is null", k.SignText(t, []byte("null"), []byte("{}")), badKey},
		{"header that is empty", k.SignText(t, []byte("{}"), []byte("{}")), badKey},
		{"alg that is a number", k.SignText(t, []byte(`{"alg":256}`), []byte("{}")), badKey},
		{"alg twice", k.SignText(t, []byte(`{"alg":"none","alg":"HS256"}`), []byte("{}")), badHeader},
		{"crit", under(object{"alg": "HS256", "crit": []string{"x"}, "x": 1}), badHeader},
		{"crit that is empty", under(object{"alg": "HS256", "crit": []string{}}), badHeader},
		{"crit of unencoded payloads", under(object{"alg": "HS256", "crit": []string{"b64"}, "b64": false}), badHeader},
		{"kid that is a number", under(object{"alg": "HS256", "kid": 1}), badHeader},
		{"kid that is an object", under(object{"alg": "HS256", "kid": object{"a": 1}}), badHeader},
		{"kid that is null", under(object{"alg": "HS256", "kid": nil}), badHeader},
		{"typ of a logout token", under(object{"alg": "HS256", "typ": "logout+jwt"}), badHeader},
		{"typ of a proof", under(object{"alg": "HS256", "typ": "dpop+jwt"}), badHeader},

		{"another's key", authtest.New(t, "HS256").Token(t, good(nil)), badKey},
		{"another's RSA key", forged.Token(t, good(nil)), badKey},
		{"no signature", parts[0] + "." + parts[1] + ".", badKey},
		{"half a signature", parts[0] + "." + parts[1] + "." + parts[2][:20], badKey},
		{"another token's signature", parts[0] + "." + raw(`{"sub":"admin"}`) + "." + parts[2], badKey},
		{"another's claims behind the header", under(object{"alg": "HS256"})[:20] + parts[1] + "." + parts[2], noToken},

		{"payload that is empty", text(""), noToken},
		{"payload that is no JSON", text("{"), noToken},
		{"payload that is an array", text("[]"), unread},
		{"payload that is a text", text(`"sub"`), unread},
		{"payload that is null", text("null"), unread},
		{"payload with something behind it", text(`{} {}`), noToken},
		{"payload that is not UTF-8", text("{\"a\":\"\xff\"}"), unread},
		{"payload with half a pair", whole(`,"x":"\ud83d"`), unread},
		{"payload with a pair turned round", whole(`,"x":"\ude00\ud83d"`), unread},
		{"payload with a zero", whole(`,"sub":"a\u0000"`), unread},
		{"payload nested 33 deep", whole(`,"x":` + strings.Repeat("[", 32) + strings.Repeat("]", 32)), unread},
		{"sub twice", whole(`,"sub":"a","sub":"b"`), unread},
		{"sub twice, written otherwise", whole(`,"sub":"a","s\u0075b":"b"`), unread},
		{"exp twice", whole(`,"exp":99999999999`), unread},
		{"a name twice further in", whole(`,"x":[{"a":1,"a":2}]`), unread},

		{"no exp", with(object{"exp": nil}), noExp},
		{"exp that is null", text(`{"iss":"https://idp.example","aud":"pgcast","exp":null}`), unread},
		{"exp that is a text", with(object{"exp": fmt.Sprint(in(time.Hour))}), unread},
		{"exp that is a date", with(object{"exp": "2099-01-01T00:00:00Z"}), unread},
		{"exp that is true", with(object{"exp": true}), unread},
		{"exp that is negative", with(object{"exp": -1}), unread},
		{"exp that is far too large", text(`{"iss":"https://idp.example","aud":"pgcast","exp":1e300}`), unread},
		{"exp in milliseconds", with(object{"exp": in(time.Hour) * 1000}), unread},
		{"exp of 0", with(object{"exp": 0}), expired},
		{"expired", with(object{"exp": in(-11 * time.Second)}), expired},
		{"expired long ago", with(object{"exp": in(-1000 * time.Hour)}), expired},
		{"nbf to come", with(object{"nbf": in(15 * time.Second)}), early},
		{"nbf that is a text", with(object{"nbf": "0"}), unread},
		{"iat to come", with(object{"iat": in(time.Minute)}), early},
		{"iat that is a text", with(object{"iat": "0"}), unread},
		{"expired and early", with(object{"exp": in(-time.Hour), "nbf": in(time.Hour)}), expired},

		{"no iss", with(object{"iss": "-"}), others},
		{"iss that is empty", with(object{"iss": ""}), others},
		{"another iss", with(object{"iss": "https://evil.example"}), others},
		{"iss with a slash", with(object{"iss": "https://idp.example/"}), others},
		{"iss in capitals", with(object{"iss": "HTTPS://idp.example"}), others},
		{"iss that is a list", with(object{"iss": []string{"https://idp.example"}}), unread},
		{"no aud", with(object{"aud": "-"}), others},
		{"aud that is empty", with(object{"aud": ""}), others},
		{"aud that is an empty list", with(object{"aud": []string{}}), others},
		{"another aud", with(object{"aud": "web"}), others},
		{"aud that begins alike", with(object{"aud": "pgcast2"}), others},
		{"aud that is a number", with(object{"aud": 1}), unread},
		{"aud with a number in it", with(object{"aud": []any{"pgcast", 1}}), unread},
		{"aud with null in it", with(object{"aud": []any{"pgcast", nil}}), unread},
		{"sub that is a number", with(object{"sub": 7}), unread},
		{"sub that is a list", with(object{"sub": []string{"u1"}}), unread},
		{"jti that is a number", with(object{"jti": 7}), unread},

		{"too long", with(object{"x": strings.Repeat("x", auth.MaxToken)}), "too long"},
	} {
		t.Run(c.name, func(t *testing.T) {
			claims, err := v.Authenticate(t.Context(), c.token)
			if c.want == "" {
				if err != nil {
					t.Fatalf("it is refused: %v", err)
				}
				return
			}
			if err == nil {
				t.Fatalf("it is accepted, as %s", claims.Raw)
			}
			if codeOf(t, err) != pgcast.CodeUnauthenticated || !strings.Contains(err.Error(), c.want) {
				t.Errorf("the error is %q of code %s; want %q", err, codeOf(t, err), c.want)
			}
			if len(c.token) > 8 && strings.Contains(err.Error(), c.token) {
				t.Errorf("the error shows the token: %v", err)
			}
		})
	}
}

// loosen changes bits of the last letter that mean nothing.
func loosen(text string) string {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(letters, text[len(text)-1])
	return text[:len(text)-1] + string(letters[last|1])
}

// What is known of the caller is what the token says, and it ends with the token.
func TestClaimsOfToken(t *testing.T) {
	k := authtest.New(t, "ES256")
	o := trust(t, k)
	o.Leeway = 30 * time.Second
	v := verifier(t, o)
	exp, iat := in(time.Hour), in(-time.Hour)
	c, err := v.Authenticate(t.Context(), k.Token(t, object{"sub": "u1", "jti": "t1", "exp": exp, "iat": iat, "role": "member"}))
	if err != nil {
		t.Fatal(err)
	}
	if c.Source != auth.FromToken || c.Subject != "u1" || c.TokenID != "t1" || c.Issued.Unix() != iat || c.Expires.Unix() != exp+30 || c.Scopes != nil {
		t.Errorf("the claims are %+v", c)
	}
	if want := `{"role":"member","sub":"u1"}`; string(c.Decided()) != want {
		t.Errorf("decided by %s, want %s", c.Decided(), want)
	}
	again, err := v.Authenticate(t.Context(), k.Token(t, object{"role": "member", "sub": "u1", "jti": "t2", "exp": exp + 5}))
	if err != nil {
		t.Fatal(err)
	}
	if again.Hash() != c.Hash() {
		t.Error("another token of the same caller is decided on anew")
	}
}

// What is said of a token does not help who made it up: before the signature is known to be
// good, nothing about the claims is told.
func TestNothingIsToldOfForgedTokens(t *testing.T) {
	k := authtest.New(t, "HS256")
	v := verifier(t, trust(t, k))
	var first string
	for _, claims := range []object{{"exp": 0}, {"exp": in(time.Hour)}, {"exp": "x"}, {"nbf": in(time.Hour)}, {"exp": nil}} {
		_, err := v.Authenticate(t.Context(), authtest.New(t, "HS256").Token(t, claims))
		if codeOf(t, err) != pgcast.CodeUnauthenticated {
			t.Fatalf("%v: %v", claims, err)
		}
		if first == "" {
			first = err.Error()
		}
		if err.Error() != first {
			t.Errorf("%v: %v, but others: %s", claims, err, first)
		}
	}
}

// TestTokensThatAreTooLong is S5: what is too long costs nothing, whatever it looks like.
func TestTokensThatAreTooLong(t *testing.T) {
	k := authtest.New(t, "HS256")
	v := verifier(t, trust(t, k))
	chain := auth.NewChain(v, auth.NewKeys(nil, nil), nil)
	for name, token := range map[string]string{
		"points":      strings.Repeat(".", 1<<20),
		"letters":     strings.Repeat("a", 1<<20),
		"header":      strings.Repeat("a", 1<<20) + ".e30.x",
		"key":         auth.KeyPrefix + strings.Repeat("a", 1<<20) + "_x",
		"parts of it": strings.Repeat("eyJhbGciOiJIUzI1NiJ9.", 50_000),
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for range 1000 {
				if _, err := chain.Authenticate(context.Background(), token); codeOf(t, err) != pgcast.CodeUnauthenticated {
					t.Fatal(err)
				}
			}
			runtime.ReadMemStats(&after)
			// An error and its text, each time.
			if each := (after.TotalAlloc - before.TotalAlloc) / 1000; each > 1024 {
				t.Errorf("%d bytes are allocated for each", each)
			}
		})
	}
}

// A token that just fits, and is made to cost most, does not cost much.
func TestTokensThatJustFit(t *testing.T) {
	k := authtest.New(t, "HS256")
	v := verifier(t, trust(t, k))
	for name, payload := range map[string]string{
		"nested": strings.Repeat(`{"a":`, 900) + "1" + strings.Repeat("}", 900),
		"names":  "{" + strings.Repeat(`"a":1,`, 900) + `"b":1}`,
		"number": `{"exp":` + strings.Repeat("9", 5000) + "}",
		"blanks": strings.Repeat(" ", 5900) + "{}",
	} {
		token := k.Sign(t, object{"alg": "HS256"}, []byte(payload))
		if len(token) > auth.MaxToken {
			t.Fatalf("%s: it has %d bytes", name, len(token))
		}
		began := time.Now()
		for range 100 {
			if _, err := v.Authenticate(t.Context(), token); codeOf(t, err) != pgcast.CodeUnauthenticated {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if each := time.Since(began) / 100; each > 50*time.Millisecond {
			t.Errorf("%s: each takes %s", name, each)
		}
	}
}

// What is logged of tokens is nothing.
func TestTokensAreNotLogged(t *testing.T) {
	var log bytes.Buffer
	k := authtest.New(t, "HS256")
	o := trust(t, k)
	o.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	v := verifier(t, o)
	for _, token := range []string{k.Token(t, nil), k.Token(t, object{"exp": 0}), authtest.New(t, "HS256").Token(t, nil), "canary"} {
		_, _ = v.Authenticate(t.Context(), token)
	}
	if log.Len() > 0 {
		t.Errorf("there is a log: %s", log.String())
	}
}

// A token of a clock that goes ahead can be revoked as soon as it was shown.
func TestIssuedAhead(t *testing.T) {
	key := authtest.New(t, "HS256")
	v, err := auth.NewVerifier(&auth.TokenOptions{Secret: key.Secret(), Leeway: 30 * time.Second, Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	c, err := v.Authenticate(t.Context(), key.Token(t, map[string]any{"sub": "ann", "iat": now.Add(20 * time.Second).Unix(), "exp": now.Add(time.Hour).Unix()}))
	if err != nil {
		t.Fatal(err)
	}
	if r := (auth.Revocation{Kind: auth.BySubject, Value: "ann", At: time.Now()}); !r.Covers(c, "") {
		t.Errorf("issued %v, it is not revoked at %v", c.Issued, r.At)
	}
}
