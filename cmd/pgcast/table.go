package main

import (
	"bufio"
	"encoding/json"
	"strings"
	"unicode/utf8"
)

// table prints rows: in columns for a person, separated by tabs for a program. Where
// there are very many, the first ones decide how wide the columns are.
type table struct {
	out     *bufio.Writer
	paint   paint
	aligned bool
	header  []string
	rows    [][]string
	widths  []int // nil until they are settled
}

const maxTableBuffer = 1000

func (a *app) newTable(header []string) *table {
	return &table{out: bufio.NewWriter(a.out), paint: a.paint(a.out), aligned: isTerminal(a.out), header: header}
}

func (t *table) add(row ...string) {
	if t.widths == nil && len(t.rows) < maxTableBuffer {
		t.rows = append(t.rows, row)
		return
	}
	t.settle()
	t.line(row, nil)
}

// close prints what is left. The error is the first one of all writing.
func (t *table) close() error {
	t.settle()
	return t.out.Flush()
}

func (t *table) settle() {
	if t.widths != nil {
		return
	}
	t.widths = make([]int, len(t.header))
	for _, row := range append([][]string{t.header}, t.rows...) {
		for i, cell := range row {
			t.widths[i] = max(t.widths[i], utf8.RuneCountInString(plain(cell)))
		}
	}
	t.line(t.header, t.paint.bold)
	for _, row := range t.rows {
		t.line(row, nil)
	}
	t.rows = nil
}

func (t *table) line(row []string, style func(string) string) {
	for t.aligned && len(row) > 1 && row[len(row)-1] == "" {
		row = row[:len(row)-1] // no blanks at the end of a line
	}
	for i, cell := range row {
		cell = plain(cell)
		pad := 0
		if t.aligned && i < len(row)-1 {
			pad = max(0, t.widths[i]-utf8.RuneCountInString(cell))
		}
		if i > 0 {
			if t.aligned {
				t.out.WriteString("  ")
			} else {
				t.out.WriteByte('\t')
			}
		}
		if style != nil {
			cell = style(cell)
		}
		t.out.WriteString(cell)
		t.out.WriteString(strings.Repeat(" ", pad))
	}
	t.out.WriteByte('\n')
}

// printLines prints a list as JSON, one element per line.
func printLines[T any](a *app, list []T) error {
	enc := json.NewEncoder(a.out)
	enc.SetEscapeHTML(false)
	for _, v := range list {
		if err := enc.Encode(v); err != nil {
			return err
		}
	}
	return nil
}
