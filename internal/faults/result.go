// Package faults provokes what can go wrong around whole pgcast servers, fault by fault, and
// judges what the clients got. Its tests are named after the rows of a catalogue of faults;
// each reports its figures.
//
//	go run ./internal/faults/run -seed 1        every row, a few trials each: some minutes
//	go run ./internal/faults/run -seed 1 -full  as many trials as the catalogue asks for
//	go test ./internal/faults                   a short selection; every row with PGCAST_FAULTS_ROWS=all
//
// The command writes docs/guarantees.md.
package faults

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
)

// Result is one figure of one row.
type Result struct {
	Row    string `json:"row"` // its number, or several
	Fault  string `json:"fault"`
	Figure string `json:"figure"`
	Value  string `json:"value"`
	Target string `json:"target"`
	Met    bool   `json:"met"`
	Why    string `json:"why,omitempty"` // it may be missed, where that is known

	Lost      int `json:"lost"`
	Doubled   int `json:"doubled"`
	Reordered int `json:"reordered"`
	Phantom   int `json:"phantom"`
	Changed   int `json:"changed"`
	Missed    int `json:"missed"` // rows that folding the events does not give
	Events    int `json:"events"` // compared
	Trials    int `json:"trials"`
}

// Append adds a result to a file, as a line of JSON.
func (r *Result) Append(file string) error {
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("report a fault's figure: %w", err)
	}
	defer f.Close()
	if _, err := f.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("report a fault's figure: %w", err)
	}
	return nil
}

// Read reads what Append wrote.
func Read(r io.Reader) (all []Result, err error) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		var one Result
		if err := json.Unmarshal(lines.Bytes(), &one); err != nil {
			return nil, fmt.Errorf("read a fault's figure: %w", err)
		}
		all = append(all, one)
	}
	return all, lines.Err()
}
