package faults

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
)

// Every row names a test that there is, and every test of a fault belongs to a row.
func TestRows(t *testing.T) {
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var there []string
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^func (TestFault\w+)\(`).FindAllStringSubmatch(string(text), -1) {
			there = append(there, m[1])
		}
	}
	for _, r := range Rows {
		if !slices.Contains(there, r.Test) {
			t.Errorf("row %s: there is no %s", r.Number, r.Test)
		}
	}
	for _, name := range there {
		if !slices.ContainsFunc(Rows, func(r Row) bool { return r.Test == name }) {
			t.Errorf("%s is of no row", name)
		}
	}
}
