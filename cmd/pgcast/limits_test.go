package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/pgcast/pgcast/internal/pgtest"
)

// The example in docs/rate-limits.md, run as it stands there.
func TestRateLimitsExample(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("needs curl")
	}
	text, err := os.ReadFile("../../docs/rate-limits.md")
	if err != nil {
		t.Fatal(err)
	}
	step := map[string]string{}
	for _, m := range regexp.MustCompile("(?s)<!-- example: (\\w+) -->\n```\\w+\n(.*?)```").FindAllSubmatch(text, -1) {
		step[string(m[1])] = string(m[2])
	}
	s := newShell(t, "PGCAST_DATABASE_URL="+pgtest.New(t, nil).URL)
	s.write(t, "pgcast.yaml", step["settings"])
	p := startServe(t, s)
	run := func(name string) string {
		script := strings.NewReplacer("127.0.0.1:8080", p.listen, "127.0.0.1:9187", p.admin).Replace(step[name])
		if script == step[name] {
			t.Fatalf("step %s asks no server: %s", name, script)
		}
		cmd := exec.CommandContext(t.Context(), "sh", "-euc", script)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s\n%s", err, script, out)
		}
		return string(out)
	}
	const thrice = "201\n201\n201\n429\n"
	if out := run("use"); out != thrice {
		t.Errorf("it prints %s", out)
	}
	var list struct {
		Rules []string
		Bans  []any
	}
	out := run("orders")
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list.Rules) != strings.Count(step["settings"], "  - ") || len(list.Bans) != 0 {
		t.Errorf("the orders are answered with %s, %v", out, err)
	}
	if out := run("use"); out != thrice {
		t.Errorf("after the reset it prints %s", out)
	}
}
