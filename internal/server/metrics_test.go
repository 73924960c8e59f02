package server

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/internal/redistest"
	"github.com/pgcast/pgcast/internal/wire"
)

// Every metric that a server shows is in the docs, and none has a topic, a user or a
// session for a label.
func TestMetricsAreTold(t *testing.T) {
	t.Parallel()
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatal(pages, err)
	}
	told := map[string]bool{}
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range regexp.MustCompile(`pgcast_[a-z_]+`).FindAllString(string(text), -1) {
			told[name] = true
		}
	}
	r := start(t, pgtest.New(t, nil).URL, func(o *Options) { o.Live.RedisURL = redistest.Start(t).URL }).awaitReady(t)
	p := r.dial(t)
	p.send(`{"type":"presence","op":"join","topic":"a","ref":1}`)
	p.want(wire.Presence)
	_, text := get(t, "http://"+r.admin+"/metrics")
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (pgcast_[a-z_]+) `).FindAllStringSubmatch(text, -1) {
		if !told[m[1]] {
			t.Errorf("docs/ does not tell of %s", m[1])
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^pgcast_[a-z_]+\{.*\b(topic|user|session|key|group)=.*`).FindAllString(text, -1) {
		t.Errorf("a label without a bound: %s", m)
	}
}
