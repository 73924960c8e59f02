package main

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast"
)

// The readers of the settings' texts. Each checks what it reads; its error says what is
// wrong, and as a hint what to write.

// wrong is such an error, before it is known which setting it is about.
type wrong struct{ what, hint string }

func (w *wrong) Error() string { return w.what }

func text(field func(*settings) *string, hint string) func(*settings, string) error {
	return func(s *settings, v string) error {
		if strings.ContainsRune(v, 0) {
			return &wrong{"has a zero byte in it", hint}
		}
		*field(s) = v
		return nil
	}
}

func boolean(field func(*settings) *bool) func(*settings, string) error {
	return func(s *settings, v string) error {
		b, err := strconv.ParseBool(strings.ToLower(v))
		if err != nil {
			return &wrong{"is neither true nor false", "write true or false"}
		}
		*field(s) = b
		return nil
	}
}

func choice[T ~string](field func(*settings) *T, choices ...string) func(*settings, string) error {
	return func(s *settings, v string) error {
		if !slices.Contains(choices, v) {
			return &wrong{"is not one of its values", "write one of " + strings.Join(choices, ", ")}
		}
		*field(s) = T(v)
		return nil
	}
}

func number(field func(*settings) *int, least, most int) func(*settings, string) error {
	return func(s *settings, v string) error {
		n, err := strconv.Atoi(strings.ReplaceAll(v, "_", ""))
		if err != nil || n < least || n > most {
			return &wrong{"is not a number it can be", fmt.Sprintf("write a whole number from %d to %d", least, most)}
		}
		*field(s) = n
		return nil
	}
}

// sizeUnits, longest first, so that KiB is not taken for B.
var sizeUnits = []struct {
	name string
	n    int
}{{"kib", 1 << 10}, {"mib", 1 << 20}, {"kb", 1_000}, {"mb", 1_000_000}, {"b", 1}, {"", 1}}

func size(field func(*settings) *int, least, most int) func(*settings, string) error {
	return func(s *settings, v string) error {
		digits, unit := strings.ToLower(strings.ReplaceAll(v, "_", "")), 1
		for _, u := range sizeUnits {
			if rest, ok := strings.CutSuffix(digits, u.name); ok {
				digits, unit = strings.TrimSpace(rest), u.n
				break
			}
		}
		n, err := strconv.Atoi(digits)
		if err != nil || n < 0 || n > most/unit || n*unit < least {
			return &wrong{"is not a size it can be",
				fmt.Sprintf("write a number of bytes from %d to %d, or with a unit, as 256KiB or 1MB", least, most)}
		}
		*field(s) = n * unit
		return nil
	}
}

func duration(field func(*settings) *time.Duration, least, most time.Duration) func(*settings, string) error {
	return func(s *settings, v string) error {
		d, err := time.ParseDuration(v)
		if err != nil {
			return &wrong{"is not a duration", "write a number with a unit, as 30s, 2m or 1h30m"}
		}
		if d < least || d > most {
			return &wrong{"is not a duration it can be", fmt.Sprintf("write one from %s to %s", least, most)}
		}
		*field(s) = d
		return nil
	}
}

// address reads host:port.
func address(field func(*settings) *string) func(*settings, string) error {
	return func(s *settings, v string) error {
		_, port, err := net.SplitHostPort(v)
		if err == nil {
			_, err = strconv.ParseUint(port, 10, 16)
		}
		if err != nil {
			return &wrong{"is not an address", "write host:port, as 127.0.0.1:8080; port 0 takes any free one"}
		}
		*field(s) = v
		return nil
	}
}

// origins reads hosts, with a scheme or for any, and with * for any text without a slash.
func origins(field func(*settings) *[]string) func(*settings, string) error {
	return func(s *settings, v string) error {
		*field(s) = nil
		for part := range strings.SplitSeq(v, ",") {
			part = strings.TrimSpace(part)
			if part == "" {
				continue
			}
			whole := part
			if !strings.Contains(part, "://") {
				whole = "https://" + part
			}
			u, err := url.Parse(whole)
			if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Host == "*" ||
				strings.TrimSuffix(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil || u.Fragment != "" {
				return &wrong{"has something in it that is not an origin",
					"write hosts, with the port if there is one, as in https://app.example.com,localhost:5173,*.example.org"}
			}
			*field(s) = append(*field(s), strings.TrimSuffix(strings.ToLower(part), "/"))
		}
		return nil
	}
}

func databaseURL(field func(*settings) *string) func(*settings, string) error {
	const hint = "write postgres://user:password@host:5432/database; special characters in the password as %XX"
	return func(s *settings, v string) error {
		*field(s) = v
		if v == "" {
			return nil
		}
		u, err := url.Parse(v)
		isURL := strings.Contains(v, "://")
		if isURL && (err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql") {
			// Not even the parser's reason: it quotes the part it stumbled over.
			return &wrong{"is not a URL of a Postgres database", hint}
		}
		if _, err := pgx.ParseConfig(v); err != nil {
			if !isURL {
				return &wrong{"is neither a URL nor a keyword string of a Postgres database", hint}
			}
			return &wrong{"cannot be used: " + reason(err, v), hint}
		}
		return nil
	}
}

// reason is why pgx refuses a URL, without the URL.
func reason(err error, databaseURL string) string {
	var deepest error
	for e := err; e != nil; e = errors.Unwrap(e) {
		deepest = e
	}
	text := deepest.Error()
	for _, secret := range passwords(databaseURL) {
		text = strings.ReplaceAll(text, secret, "xxxxx")
	}
	return text
}

// passwords lists what must not be shown of a URL, as written and as meant.
func passwords(databaseURL string) []string {
	u, err := url.Parse(databaseURL)
	if err != nil {
		return nil
	}
	var list []string
	add := func(p string) {
		if p != "" {
			list = append(list, p, url.QueryEscape(p), url.PathEscape(p))
		}
	}
	if p, ok := u.User.Password(); ok {
		add(p)
		_, rest, _ := strings.Cut(databaseURL, "://")
		if end := strings.IndexAny(rest, "/?#"); end >= 0 {
			rest = rest[:end]
		}
		_, asWritten, _ := strings.Cut(rest[:strings.LastIndex(rest, "@")], ":")
		add(asWritten)
	}
	for _, name := range secretParams {
		add(u.Query().Get(name))
	}
	return list
}

// secretParams are the connection parameters that are passwords.
var secretParams = []string{"password", "sslpassword"}

// redact gives a database URL without its passwords.
func redact(databaseURL string) string {
	if databaseURL == "" {
		return ""
	}
	u, err := url.Parse(databaseURL)
	if err != nil || u.Scheme == "" || u.Host == "" && u.Opaque != "" {
		return redactKeywords(databaseURL)
	}
	q, hidden := u.Query(), false
	for _, name := range secretParams {
		if q.Has(name) {
			q.Set(name, "xxxxx")
			hidden = true
		}
	}
	if hidden {
		u.RawQuery = q.Encode()
	}
	return u.Redacted()
}

// redactKeywords keeps of a keyword string only what is known to be harmless: its
// quoting rules are too easy to get wrong for the opposite.
func redactKeywords(conn string) string {
	cfg, err := pgx.ParseConfig(conn)
	if err != nil {
		return "(hidden)"
	}
	shown := fmt.Sprintf("host=%s port=%d user=%s dbname=%s", cfg.Host, cfg.Port, cfg.User, cfg.Database)
	if cfg.Password != "" {
		shown += " password=xxxxx"
	}
	return shown
}

// patterns reads topics and patterns.
func patterns(field func(*settings) *[]pgcast.Pattern) func(*settings, string) error {
	return func(s *settings, v string) error {
		*field(s) = nil
		for _, part := range split(v) {
			p, err := pgcast.ParsePattern(part)
			if err != nil {
				return &wrong{fmt.Sprintf("has something in it that is not a topic or pattern: %v", err), "write them with commas in between, as room:*,board:**"}
			}
			*field(s) = append(*field(s), p)
		}
		return nil
	}
}

// names reads words.
func names(field func(*settings) *[]string) func(*settings, string) error {
	return func(s *settings, v string) error {
		*field(s) = append([]string{}, split(v)...)
		return nil
	}
}

// split gives the parts between commas, without what is empty.
func split(v string) (parts []string) {
	for part := range strings.SplitSeq(v, ",") {
		if part = strings.TrimSpace(part); part != "" {
			parts = append(parts, part)
		}
	}
	return parts
}
