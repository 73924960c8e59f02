// Package pgcast holds the nouns of a Postgres-first realtime service: [Event],
// [Seq], [Position], [ID], topic names and [Pattern], and the one error type.
// It imports the standard library only; everything else in this module imports it.
//
// # Guarantees
//
// Postgres is the system of record. A committed write of an attached table, or a
// committed call of pgcast.publish(), is one row of pgcast.event_log, and the
// sequencer gives every committed row exactly one place, in two orders at once:
//
//   - its [Seq] within its topic: 1, 2, 3 … without holes;
//   - its [Position] within the whole log, also without holes.
//
// From that follows what a subscriber may rely on:
//
//  1. Nothing is lost, doubled or reordered: per topic it sees seq n, n+1, n+2 …
//     exactly once, however often it, the server or Postgres went away.
//  2. What retention has trimmed is announced as a gap, never skipped silently.
//  3. What was committed before another transaction began comes first, and changes
//     of one row keep their order. Overlapping transactions may come in either order.
//  4. Nothing is delivered that a crash of Postgres could take back.
//  5. If the log's history is no longer the one a client saw (a restore, a lossy
//     failover), the client is told reset; it is never left to diverge quietly.
//
// The words used here are used with the same meaning in SQL, on the wire, in the
// metrics and in the docs; see docs/architecture.md.
package pgcast
