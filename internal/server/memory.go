package server

import (
	"context"
	"time"
)

const (
	restEvery = 5 * time.Second
	restWorth = 500 // sessions that came or went
)

// rest gives memory back to the system (free) once many sessions have come, or gone, and
// it has become quiet. A handshake leaves more garbage behind than a session needs, and a
// server that has little to do would keep it for minutes.
func rest(ctx context.Context, sessions func() int, free func()) error {
	look := time.NewTicker(restEvery)
	defer look.Stop()
	var rested, before int
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-look.C:
		}
		now := sessions()
		if moved(now, rested) && !moved(now, before) {
			free()
			rested = now
		}
		before = now
	}
}

// moved tells whether the number of sessions has changed enough to look for memory.
func moved(now, then int) bool {
	d := max(now-then, then-now)
	return d >= restWorth && d >= then/5
}
