// Package cursor is cursors: what a session points at on a topic, shown to the others who
// look at it. A mouse, a caret, a selection; any JSON.
//
// A session moves its cursors as often as it likes. The first move is shown at once and
// the newest one at the end of each interval, so that the last always counts, whatever
// was left out before. A cursor that does not move for a while is taken away, and so is
// everything of a session that ends. Cursors are [presence.Rosters] of a kind of their own.
package cursor
