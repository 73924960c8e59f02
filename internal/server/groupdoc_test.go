package server

import (
	"bytes"
	"encoding/json"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/pgcast/pgcast/internal/pgtest"
)

// The example of docs/groups.md is what happens.
func TestGroupsPage(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/groups.md")
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string) string {
		m := regexp.MustCompile("(?s)```" + kind + "\n(.*?)```").FindSubmatch(page)
		if m == nil {
			t.Fatalf("the page has no block of %s", kind)
		}
		return string(m[1])
	}
	db := pgtest.New(t, nil)
	a, b := twoServers(t, db, nil)
	db.Exec(t, block("sql"))
	clients := map[string]*peer{}
	early := map[string][]any{} // what a client was sent and the page has not come to
	lines := 0
	for line := range strings.Lines(block("text")) {
		who, text, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok {
			continue
		}
		lines++
		name := who[:len(who)-1]
		if clients[name] == nil {
			clients[name] = []*running{a, b}[len(clients)%2].dial(t)
		}
		if strings.HasSuffix(who, ">") {
			clients[name].send(text)
			continue
		}
		var want any
		if err := json.Unmarshal([]byte(text), &want); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		early[name] = clients[name].until(t, want, early[name])
	}
	if lines < 20 {
		t.Errorf("the example has %d lines", lines)
	}
}

// until reads on until a frame has come, and gives what else has.
func (p *peer) until(t *testing.T, want any, early []any) (rest []any) {
	t.Helper()
	for i, got := range early {
		if reflect.DeepEqual(got, want) {
			return append(early[:i:i], early[i+1:]...)
		}
	}
	for {
		_, text, err := p.ws.Read(t.Context())
		if err != nil {
			t.Fatalf("while waiting for %v: %v; what came: %v", want, err, early)
		}
		var got any
		if err := json.NewDecoder(bytes.NewReader(text)).Decode(&got); err != nil {
			t.Fatal(err)
		}
		if reflect.DeepEqual(got, want) {
			return early
		}
		early = append(early, got)
	}
}
