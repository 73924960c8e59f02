package doctor

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// Every check is in the docs, and no other.
func TestDocs(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(string(text), "| check | looks at |\n| --- | --- |\n")
	list, _, _ = strings.Cut(list, "\n\n")
	told := map[string]bool{}
	for line := range strings.Lines(list) {
		cell, _, _ := strings.Cut(strings.TrimPrefix(line, "|"), "|")
		for _, name := range regexp.MustCompile("`[^`]+`").FindAllString(cell, -1) {
			told[strings.Trim(name, "`")] = true
		}
	}
	for _, name := range Names() {
		if !told[name] {
			t.Errorf("docs/operations.md does not tell of %s", name)
		}
		delete(told, name)
	}
	for name := range told {
		t.Errorf("docs/operations.md tells of %s, which is no check", name)
	}
}
