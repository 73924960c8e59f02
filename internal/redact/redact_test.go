package redact_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/pgcast/pgcast/internal/redact"
)

// No secret comes through, wherever in a line it stands, and nothing else is changed.
func TestSecrets(t *testing.T) {
	const canary = "canary-0123456789"
	const jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJjYW5hcnkifQ.canary0123456789abcdefABCDEF_-xyz"
	var out bytes.Buffer
	log := slog.New(redact.NewHandler(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}), "", "short", canary, canary+"-and-longer"))
	for _, text := range []string{
		canary, "x" + canary + "x", canary + "-and-longer", "postgres://app:canary%21pass@db/x", "postgres://app:can@ary@db/x", "redis://:canarypass@h:1",
		"connect to `host=h password=canarypass`", `password: "canary pass"`, "PASSWORD='canary pass'", jwt, "GET /ws?ticket=canary123&x=1", "pgk_id_canary",
		"Authorization: Bearer canary.12345678", "?access_token=canary12", "pgcast.token." + jwt, "Cookie: session=canary; b=canary",
	} {
		out.Reset()
		log.Debug("a "+text, "attr", text, "error", fmt.Errorf("read: %w", errors.New(text)), slog.Group("g", "in", text), "bytes", []byte(text), "list", []string{text}, "any", struct{ S string }{text})
		log.With("with", text).WithGroup("group").Info("x", "y", text)
		if strings.Contains(out.String(), "canary") {
			t.Errorf("%q comes through:\n%s", text, &out)
		}
	}
	out.Reset()
	slog.New(redact.NewHandler(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}), "", "short")).Info("a short word of http://example.com:8080/x?y=1", "n", 7, "d", time.Second, "error", errors.New("no such thing"), "yes", true)
	if got, want := out.String(), `level=INFO msg="a short word of http://example.com:8080/x?y=1" n=7 d=1s error="no such thing" yes=true`+"\n"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
