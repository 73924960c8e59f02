package auth_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgcast/pgcast/internal/auth"
)

// Metrics tell how credentials fare, and whether the provider answers, by a fixed number of
// series.
func TestCredentialMetrics(t *testing.T) {
	r := prometheus.NewRegistry()
	value := func(name, result string) float64 {
		families, err := r.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				if f.GetName() == name && (result == "" || m.GetLabel()[0].GetValue() == result) {
					return m.GetCounter().GetValue() + m.GetGauge().GetValue()
				}
			}
		}
		t.Fatalf("there is no %s of %q", name, result)
		return 0
	}
	k := newKey(t, "ES256", "k")
	p := newProvider(t)
	p.do(http.NotFound)
	v := running(t, auth.TokenOptions{JWKSURL: p.URL, FetchPause: 10 * time.Millisecond, FetchEvery: time.Hour, Registerer: r})
	chain := auth.NewChain(v, nil, r)
	if age := value("pgcast_access_jwks_age_seconds", ""); age != -1 {
		t.Errorf("keys that were never fetched are %v s old", age)
	}
	await(t, "a fetch has failed", func() bool { return value("pgcast_access_jwks_fetches_total", "failed") > 0 })
	_, _ = chain.Authenticate(t.Context(), k.Token(t, nil))
	p.publish(t, k)
	await(t, "a fetch has not", func() bool { return value("pgcast_access_jwks_fetches_total", "ok") > 0 })
	await(t, "there are keys", func() bool { return accepts(t, v, k.Token(t, nil)) })
	if age := value("pgcast_access_jwks_age_seconds", ""); age < 0 || age > 60 {
		t.Errorf("keys that were just fetched are %v s old", age)
	}
	for i := range 100 {
		_, _ = chain.Authenticate(t.Context(), k.Token(t, object{"sub": fmt.Sprint(i)}))
		_, _ = chain.Authenticate(t.Context(), k.Token(t, object{"sub": fmt.Sprint(i), "exp": 0}))
	}
	if n := value("pgcast_access_credentials_total", "accepted"); n != 100 {
		t.Errorf("%v were accepted", n)
	}
	if n := value("pgcast_access_credentials_total", "refused"); n != 100 {
		t.Errorf("%v were refused", n)
	}
	if n := value("pgcast_access_credentials_total", "unavailable"); n != 1 {
		t.Errorf("%v were neither", n)
	}
}
