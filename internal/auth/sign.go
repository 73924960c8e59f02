package auth

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Sign makes a token of claims, an object, that is valid from now on for as long as d says,
// signed with HS256, HS384 or HS512: to try with, where no identity provider is at hand.
// Claims iat and exp in the object are replaced.
func Sign(secret []byte, algorithm string, claims json.RawMessage, now time.Time, d time.Duration) (string, error) {
	method, ok := jwt.GetSigningMethod(algorithm).(*jwt.SigningMethodHMAC)
	if !ok {
		return "", fmt.Errorf("sign a token: %q is none of HS256, HS384 and HS512", algorithm)
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(claims, &all); err != nil || all == nil {
		return "", fmt.Errorf("sign a token: the claims are not an object")
	}
	payload := jwt.MapClaims{}
	for name, value := range all {
		payload[name] = value
	}
	payload["iat"], payload["exp"] = now.Unix(), now.Add(d).Unix()
	return jwt.NewWithClaims(method, payload).SignedString(secret)
}
