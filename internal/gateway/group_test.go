package gateway

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/pgcast/pgcast/internal/wire"
	"github.com/pgcast/pgcast/presence"
)

// A group too large for one frame comes in several, and each counts right.
func TestMembersOfLargeGroup(t *testing.T) {
	t.Parallel()
	const n = 6000
	rosters := presence.NewRosters(nil)
	for i := range n {
		rosters.Post("lobby", fmt.Sprintf("user%05d", i), json.RawMessage(fmt.Sprintf(`{"role":"member","user":{"name":%q}}`, strings.Repeat("x", 100))))
	}
	v := rosters.View("lobby", memberDialect, "", func(*presence.View) {})
	defer v.Close()
	seen := map[string]bool{}
	for i, text := range v.Pull() {
		if len(text) > wire.MaxServerFrame {
			t.Fatalf("a frame of %d bytes", len(text))
		}
		f, err := wire.ParseServer(text)
		if err != nil {
			t.Fatal(err)
		}
		var list []struct{ Key string }
		var one struct {
			Key   string
			Count int
		}
		e := f.Events[0]
		switch {
		case i == 0 && e.Name == "members" && json.Unmarshal(e.Data, &list) == nil:
		case i > 0 && e.Name == "join" && json.Unmarshal(e.Data, &one) == nil && one.Count == len(seen)+1:
			list = append(list, struct{ Key string }{one.Key})
		default:
			t.Fatalf("text %d is %.200s after %d", i, text, len(seen))
		}
		for _, m := range list {
			seen[m.Key] = true
		}
	}
	if len(seen) != n {
		t.Errorf("%d members came; want %d", len(seen), n)
	}
	rosters.Drop("lobby", "user00000")
	rosters.Post("lobby", "zoe", json.RawMessage(`{"role":"admin"}`))
	want := []string{
		fmt.Sprintf(`{"topic":"__group:lobby","event":"leave","data":{"key":"user00000","role":"member","user":{"name":%q},"count":%d}}`, strings.Repeat("x", 100), n-1),
		fmt.Sprintf(`{"topic":"__group:lobby","event":"join","data":{"key":"zoe","role":"admin","count":%d}}`, n),
	}
	for i, text := range v.Pull() {
		if i >= len(want) || string(text) != want[i] {
			t.Errorf("then came %s", text)
		}
	}
}
