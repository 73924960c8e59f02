// Package redact keeps secrets out of the log: those that are known, and what looks like one.
// Whoever logs takes care by himself; this is for what libraries, panics and databases say.
package redact

import (
	"context"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
)

// Shown stands where a secret was.
const Shown = "xxxxx"

// shortest is how long a secret has to be to be looked for: less stands in many words.
const shortest = 6

// Handler hands on what is logged, without secrets.
type Handler struct {
	next  slog.Handler
	known *strings.Replacer // nil: none
}

// NewHandler keeps the secrets, and what looks like one, from the next handler.
func NewHandler(next slog.Handler, secrets ...string) *Handler {
	list := slices.Clone(secrets)
	list = slices.DeleteFunc(list, func(s string) bool { return len(s) < shortest })
	// The longest first, so that of one within another nothing stays.
	slices.SortFunc(list, func(a, b string) int { return len(b) - len(a) })
	h := &Handler{next: next}
	if len(list) > 0 {
		var pairs []string
		for _, s := range slices.Compact(list) {
			pairs = append(pairs, s, Shown)
		}
		h.known = strings.NewReplacer(pairs...)
	}
	return h
}

// Enabled implements [slog.Handler].
func (h *Handler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.next.Enabled(ctx, level)
}

// Handle implements [slog.Handler].
func (h *Handler) Handle(ctx context.Context, r slog.Record) error {
	clean := slog.NewRecord(r.Time, r.Level, h.text(r.Message), r.PC)
	r.Attrs(func(a slog.Attr) bool {
		clean.AddAttrs(h.attr(a))
		return true
	})
	return h.next.Handle(ctx, clean)
}

// WithAttrs implements [slog.Handler].
func (h *Handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	clean := make([]slog.Attr, len(attrs))
	for i, a := range attrs {
		clean[i] = h.attr(a)
	}
	return &Handler{h.next.WithAttrs(clean), h.known}
}

// WithGroup implements [slog.Handler].
func (h *Handler) WithGroup(name string) slog.Handler {
	return &Handler{h.next.WithGroup(name), h.known}
}

func (h *Handler) attr(a slog.Attr) slog.Attr {
	a.Value = a.Value.Resolve()
	switch a.Value.Kind() {
	case slog.KindString:
		a.Value = slog.StringValue(h.text(a.Value.String()))
	case slog.KindGroup:
		group := slices.Clone(a.Value.Group())
		for i := range group {
			group[i] = h.attr(group[i])
		}
		a.Value = slog.GroupValue(group...)
	case slog.KindAny:
		text := fmt.Sprint(a.Value.Any())
		if b, ok := a.Value.Any().([]byte); ok {
			text = string(b)
		}
		// What has none stays what it is, for handlers that know its kind.
		if clean := h.text(text); clean != text {
			a.Value = slog.StringValue(clean)
		}
	}
	return a
}

// forms are what credentials look like, and a word that each of them has in it, in small
// letters.
var forms = []struct {
	word string
	form *regexp.Regexp
	with string
}{
	{"eyj", regexp.MustCompile(`eyJ[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]{2,}\.?[A-Za-z0-9_-]*`), Shown}, // a JWT begins with {"
	{"pgk_", regexp.MustCompile(`pgk_[A-Za-z0-9_-]+`), "pgk_" + Shown},
	{"://", regexp.MustCompile(`(://[^/\s:@"]*):[^\s"]*@`), "$1:" + Shown + "@"},
	{"password", regexp.MustCompile(`(?i)(password["']?\s*[=:]\s*)("[^"]*"|'[^']*'|[^\s&"',]+)`), "$1" + Shown},
	{"ticket=", regexp.MustCompile(`(?i)(ticket=)[^&\s"']+`), "$1" + Shown},
	{"token=", regexp.MustCompile(`(?i)(token=)[^&\s"']+`), "$1" + Shown},
	{"bearer ", regexp.MustCompile(`(?i)(bearer )[A-Za-z0-9._~+/=-]{8,}`), "$1" + Shown},
	{"cookie:", regexp.MustCompile(`(?i)(cookie:)[^\r\n"]*`), "$1 " + Shown},
}

func (h *Handler) text(s string) string {
	if h.known != nil {
		s = h.known.Replace(s)
	}
	lower := strings.ToLower(s)
	for _, f := range forms {
		if strings.Contains(lower, f.word) {
			s = f.form.ReplaceAllString(s, f.with)
		}
	}
	return s
}
