//go:build race

package server

// underRace: the race detector makes everything some ten times slower.
const underRace = true
