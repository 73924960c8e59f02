package replay

import "time"

const (
	denseSteps  = 8                     // so many steps with work and no wait between make it dense
	denseEvents = 2                     // fewer in a step, and the breath before it was not worth taking
	largeStep   = 500                   // events; what a step costs by itself is little beside them
	breathShare = 4                     // breaths to steps, in time
	shortBreath = 2 * time.Millisecond  // shorter ones spare nothing
	longBreath  = 10 * time.Millisecond // what is added to an event's way at most
)

// breathing spaces the steps out while writers are busy. A step costs as much as about fifty of
// its events, and with steps end to end the writers pay for it: they run on the same cores,
// and flush the same WAL. One that waits a little takes more events for the same price. Only
// where steps follow each other without an end, so that an event that comes alone never waits.
// The zero value is a sequencer that has just had nothing to do.
type breathing struct{ steps int }

// after is called after each step that had work and tells how long to wait before the next
// look.
func (b *breathing) after(done stepped, took time.Duration) time.Duration {
	b.steps++
	switch {
	case done.more || done.events >= largeStep:
		return 0
	case b.steps <= denseSteps:
		return 0
	case done.events < denseEvents:
		b.steps = 0
		return 0
	}
	return min(max(breathShare*took, shortBreath), longBreath)
}
