package auth

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"
)

// payload is the claims of a token. Until read was called, only raw is known.
type payload struct {
	raw     json.RawMessage
	members map[string]json.RawMessage
}

// UnmarshalJSON keeps the text: nothing is read before the signature has been verified.
func (p *payload) UnmarshalJSON(text []byte) error {
	p.raw = bytes.Clone(text)
	return nil
}

// read takes the claims apart.
func (p *payload) read() (err error) {
	p.members, err = readObject(p.raw)
	return err
}

// GetExpirationTime gives exp.
func (p *payload) GetExpirationTime() (*jwt.NumericDate, error) { return p.date("exp") }

// GetIssuedAt gives iat.
func (p *payload) GetIssuedAt() (*jwt.NumericDate, error) { return p.date("iat") }

// GetNotBefore gives nbf.
func (p *payload) GetNotBefore() (*jwt.NumericDate, error) { return p.date("nbf") }

// GetIssuer gives iss.
func (p *payload) GetIssuer() (string, error) { return p.text("iss") }

// GetSubject gives sub.
func (p *payload) GetSubject() (string, error) { return p.text("sub") }

// GetAudience gives aud, which may be one text or several.
func (p *payload) GetAudience() (jwt.ClaimStrings, error) {
	raw := p.members["aud"]
	if len(raw) > 0 && raw[0] == '[' {
		var list []*string
		if err := json.Unmarshal(raw, &list); err != nil {
			return nil, errors.New("aud is not a list of texts")
		}
		all := jwt.ClaimStrings{}
		for _, s := range list {
			if s == nil {
				return nil, errors.New("aud is not a list of texts")
			}
			all = append(all, *s)
		}
		return all, nil
	}
	one, err := p.text("aud")
	if one == "" || err != nil {
		return nil, err
	}
	return jwt.ClaimStrings{one}, nil
}

// text reads a claim that is a text; empty where there is none.
func (p *payload) text(name string) (s string, err error) {
	raw, ok := p.members[name]
	if !ok {
		return "", nil
	}
	if raw[0] != '"' || json.Unmarshal(raw, &s) != nil {
		return "", fmt.Errorf("%s is not a text", name)
	}
	return s, nil
}

// maxDate is the end of the year 9999 in seconds, the last that JSON's dates can write.
const maxDate = 253402300799

// date reads a claim that is a number of seconds since 1970, nil where there is none. A text
// is none, whatever is in it (RFC 7519 2).
func (p *payload) date(name string) (*jwt.NumericDate, error) {
	raw, ok := p.members[name]
	if !ok {
		return nil, nil
	}
	n, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || !(n >= 0 && n <= maxDate) {
		return nil, fmt.Errorf("%s is not a number of seconds since 1970", name)
	}
	whole, part := math.Modf(n)
	return &jwt.NumericDate{Time: time.Unix(int64(whole), int64(part*1e9))}, nil
}

// maxDepth is how deep claims may be nested.
const maxDepth = 32

// readObject reads an object whose text means the same to everybody who reads it: also to
// Postgres, which is given the claims to decide by.
func readObject(text []byte) (map[string]json.RawMessage, error) {
	if !utf8.Valid(text) {
		return nil, errors.New("it is not UTF-8")
	}
	if err := checkEscapes(text); err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := checkValue(d, maxDepth); err != nil {
		return nil, err
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(text, &all); err != nil || all == nil {
		return nil, errors.New("it is not an object")
	}
	return all, nil
}

// checkValue refuses names that an object has twice, and what is nested too deep.
func checkValue(d *json.Decoder, room int) error {
	if room == 0 {
		return fmt.Errorf("it is nested more than %d deep", maxDepth)
	}
	t, err := d.Token()
	if err != nil {
		return errors.New("it is not JSON")
	}
	open, _ := t.(json.Delim)
	var seen map[string]bool
	if open == '{' {
		seen = map[string]bool{}
	}
	for open != 0 && d.More() {
		if open == '{' {
			t, err := d.Token()
			name, ok := t.(string)
			if err != nil || !ok {
				return errors.New("it is not JSON")
			}
			if seen[name] {
				return errors.New("a name is in it twice")
			}
			seen[name] = true
		}
		if err := checkValue(d, room-1); err != nil {
			return err
		}
	}
	if open != 0 {
		if _, err := d.Token(); err != nil {
			return errors.New("it is not JSON")
		}
	}
	return nil
}

// checkEscapes refuses characters that cannot be: half of a pair, and zero, which no text of
// Postgres can hold.
func checkEscapes(text []byte) error {
	half := false // of a pair, the first
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' {
			if half {
				break
			}
			continue
		}
		if i++; i < len(text) && text[i] != 'u' {
			if half {
				break
			}
			continue
		}
		if i+4 >= len(text) {
			return errors.New("it is not JSON")
		}
		n, err := strconv.ParseUint(string(text[i+1:i+5]), 16, 16)
		if err != nil || n == 0 {
			return errors.New("it has a character that is none")
		}
		i += 4
		switch r := rune(n); {
		case half && r >= 0xdc00 && r <= 0xdfff:
			half = false
		case half || utf16.IsSurrogate(r) && r >= 0xdc00:
			return errors.New("it has half a character")
		default:
			half = utf16.IsSurrogate(r)
		}
	}
	if half {
		return errors.New("it has half a character")
	}
	return nil
}
