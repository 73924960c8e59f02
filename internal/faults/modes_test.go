package faults

import (
	"testing"

	"github.com/pgcast/pgcast/internal/judge"
)

// sources are the modes that differ in where events come from: for faults that do not touch
// how servers are woken.
var sources = []judge.Mode{judge.Doorbell, judge.WALCapture}

// inModes runs a row's test in several modes. Beside the doorbell they are for longer runs; to be
// woken by the WAL alone for the longest, as servers that capture from it are woken by it too.
func inModes(t *testing.T, modes []judge.Mode, test func(t *testing.T, m judge.Mode)) {
	for _, m := range modes {
		if m == judge.WALWake && !all && !full {
			continue
		}
		t.Run(m.String(), func(t *testing.T) {
			if m != judge.Doorbell {
				later(t)
			}
			test(t, m)
		})
	}
}

// beginIn is begin in a mode, which the fault's name then tells.
func beginIn(t *testing.T, m judge.Mode, number, fault string) *row {
	if m != judge.Doorbell {
		fault += ", " + m.String()
	}
	return begin(t, number, fault)
}
