package auth

import (
	"fmt"
	"testing"
)

// BenchmarkRemembered is what a decision costs that is remembered, among 100,000.
func BenchmarkRemembered(b *testing.B) {
	a := NewAuthorizer(&ruler{decide: func(Question) (bool, error) { return true, nil }}, nil)
	who := make([]*Claims, 10_000)
	for i := range who {
		who[i] = claimsOf(b, fmt.Sprintf(`{"sub":"user%d"}`, i))
		for n := range 10 {
			_ = one(a, who[i], Subscribe, fmt.Sprint("t", n))
		}
	}
	i := 0
	for b.Loop() {
		if one(a, who[i%len(who)], Subscribe, "t5") != nil {
			b.Fatal("not allowed")
		}
		i += 7
	}
}

// BenchmarkForgetOne is what it costs to forget one of 10,000 callers with 10 decisions each.
func BenchmarkForgetOne(b *testing.B) {
	a := NewAuthorizer(&ruler{decide: func(Question) (bool, error) { return true, nil }}, nil)
	for i := range 10_000 {
		c := claimsOf(b, fmt.Sprintf(`{"sub":"user%d"}`, i))
		for n := range 10 {
			_ = one(a, c, Subscribe, fmt.Sprint("t", n))
		}
	}
	for b.Loop() {
		a.Forget(func(c *Claims) bool { return c.Subject == "user5" })
	}
}
