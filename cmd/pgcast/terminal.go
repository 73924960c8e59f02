package main

import (
	"fmt"
	"os"
	"strings"
	"unicode"
)

// isTerminal tells whether a person sees what is written to f.
func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull) // a character device too
	return err != nil || !os.SameFile(info, null)
}

// sayf is for talk, which goes to standard error.
func (a *app) sayf(format string, args ...any) {
	fmt.Fprintf(a.err, format, args...)
}

// paint colours text, or does not.
type paint bool

// paint gives colours for a terminal whose user has not switched them off.
func (a *app) paint(f *os.File) paint {
	return paint(isTerminal(f) && lookupEnv(a.environ, "NO_COLOR") == "" && lookupEnv(a.environ, "TERM") != "dumb")
}

func (p paint) wrap(code, text string) string {
	if !p || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (p paint) red(s string) string     { return p.wrap("31", s) }
func (p paint) green(s string) string   { return p.wrap("32", s) }
func (p paint) yellow(s string) string  { return p.wrap("33", s) }
func (p paint) magenta(s string) string { return p.wrap("35", s) }
func (p paint) cyan(s string) string    { return p.wrap("36", s) }
func (p paint) bold(s string) string    { return p.wrap("1", s) }
func (p paint) dim(s string) string     { return p.wrap("2", s) }

// plain makes text from a database harmless on a terminal: control characters, which
// could move the cursor or change what was printed before, are shown instead of obeyed.
func plain(text string) string {
	if strings.IndexFunc(text, unprintable) < 0 {
		return text
	}
	var b strings.Builder
	for _, r := range text {
		switch {
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == '\r':
			b.WriteString(`\r`)
		case unprintable(r):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

func unprintable(r rune) bool {
	const joiner = '\u200d' // holds families of emoji together
	return !unicode.IsPrint(r) && r != joiner
}

// quote makes one word of a text for the shell.
func quote(text string) string {
	if strings.IndexFunc(text, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_-.:/,=@+%", r))
	}) < 0 {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
