package gateway

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/pgcast/pgcast/internal/wire"
	"github.com/pgcast/pgcast/presence"
)

// However many there are, no frame is larger than clients take, and together they tell of
// all: who is there, and who has come and gone at once.
func TestLargeCrowd(t *testing.T) {
	t.Parallel()
	rosters := presence.NewRosters(nil)
	name := func(n int) string { return fmt.Sprint("user:", n) }
	const crowd = 20_000
	for n := range crowd {
		rosters.Post("room:1", name(n), json.RawMessage(fmt.Sprintf(`{"id":%q,"name":"%060d"}`, name(n), n)))
	}
	known := map[string]json.RawMessage{}
	pull := func(v *presence.View) (frames int) {
		t.Helper()
		for _, text := range v.Pull() {
			frames++
			if len(text) > wire.MaxServerFrame {
				t.Errorf("a frame of %d bytes", len(text))
			}
			f, err := wire.ParseServer(text)
			if err != nil {
				t.Fatal(err)
			}
			var diff struct{ Joins, Leaves map[string]json.RawMessage }
			if e := f.Events[0]; e.Name == "presence_state" {
				clear(known)
				err = json.Unmarshal(e.Data, &diff.Joins)
			} else {
				err = json.Unmarshal(e.Data, &diff)
			}
			if err != nil {
				t.Fatal(err)
			}
			for key := range diff.Leaves {
				delete(known, key)
			}
			for key, data := range diff.Joins {
				known[key] = data
			}
		}
		return frames
	}
	v := rosters.View("room:1", stateDialect, "", func(*presence.View) {})
	defer v.Close()
	if frames := pull(v); len(known) != crowd || frames < 3 {
		t.Fatalf("%d frames told of %d; want %d in several", frames, len(known), crowd)
	}
	for n := range crowd {
		if n%2 == 0 {
			rosters.Post("room:1", name(n), json.RawMessage(fmt.Sprintf(`{"id":%q,"name":"%070d"}`, name(n), n)))
		} else if n < 300 {
			rosters.Drop("room:1", name(n))
		}
	}
	if frames := pull(v); len(known) != crowd-150 || len(known[name(0)]) < 70 || frames < 2 {
		t.Fatalf("%d frames told of %d; want %d in several", frames, len(known), crowd-150)
	}
	// Who comes a little later is told of an earlier state and what has changed since.
	other := rosters.View("room:1", stateDialect, "", func(*presence.View) {})
	defer other.Close()
	pull(other)
	rosters.Drop("room:1", name(0))
	rosters.Post("room:1", "late", json.RawMessage(`{}`))
	last := rosters.View("room:1", stateDialect, "", func(*presence.View) {})
	defer last.Close()
	pull(last)
	if _, there := known[name(0)]; len(known) != crowd-150 || there || known["late"] == nil {
		t.Errorf("who came last knows of %d", len(known))
	}
	old := rosters.View("room:1", listDialect, "", func(*presence.View) {})
	defer old.Close()
	for _, text := range old.Pull() {
		if len(text) > wire.MaxServerFrame {
			t.Errorf("a list of %d bytes", len(text))
		}
	}
}
