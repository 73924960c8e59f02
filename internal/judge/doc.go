// Package judge is what tests of whole servers share: pgcast servers as processes,
// writers that outlive what happens to Postgres, readers that collect what they are
// given, and the judge, which compares that with the log and the tables, event by event
// and row by row.
//
// The judge has two oracles. The stream: what a reader was given through a subscription is
// what stands in the log after its place, once and in order. The state: folding those
// events rebuilds the attached tables. The first proves the transport, the second capture
// as well. Where the table is captured from the WAL there is a third: each row's changes stand
// in the log once, in order and all of them, and those of a transaction together.
package judge
