package main

import (
	"log/slog"
	"strings"
	"time"

	"github.com/lmittmann/tint"
)

// logger gives the log as the settings want it, on standard error. Whoever calls it
// decides what is worth a line where log-level was not given.
func (a *app) logger(level slog.Level) *slog.Logger {
	if a.set.given("log-level") || level == slog.LevelInfo {
		// The setting's own check has made sure that it can be read.
		_ = level.UnmarshalText([]byte(strings.ToUpper(a.set.LogLevel)))
	}
	if a.set.LogFormat == "text" || a.set.LogFormat == "auto" && isTerminal(a.err) {
		return slog.New(tint.NewTextHandler(a.err, &tint.Options{
			Level: level, TimeFormat: time.TimeOnly, NoColor: !bool(a.paint(a.err))}))
	}
	return slog.New(slog.NewJSONHandler(a.err, &slog.HandlerOptions{Level: level, ReplaceAttr: readable}))
}

// readable writes durations as people do: JSON would count nanoseconds.
func readable(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.StringValue(a.Value.Duration().String())
	}
	return a
}
