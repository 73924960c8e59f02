// Time, in milliseconds since 1970 with fractions, by the database's clock.

// Date.now() has no fractions and performance.now() no epoch, and may stand still while
// the machine sleeps. The largest difference seen joins them to well below a millisecond;
// a smaller one by far means that somebody has set the clock.
let anchor = -Infinity

// offset is what the database's clock is ahead of ours. Both are the same clock when
// Postgres runs on this machine, and then it stays 0.
let offset = 0

export function now() {
  const fine = performance.now()
  const join = Date.now() - fine
  if (join > anchor || join < anchor - 5) anchor = join
  return anchor + fine + offset
}

// compare takes the database's time of an answer, and when by now() the question was sent
// and answered. A difference that the way there and back explains is none.
export function compare(theirs, sent, answered) {
  const ahead = theirs - (sent + answered) / 2 + offset
  offset = Math.abs(ahead) > (answered - sent) / 2 + 2 ? ahead : 0
}

// written gives the time in an event's id: <row, hex>-<microseconds since 1970, hex>. To
// an application an id is opaque; this page may look, because the server it came with
// made it.
export function written(id) {
  const micros = parseInt(id?.slice(id.indexOf('-') + 1), 16)
  return Number.isFinite(micros) ? micros / 1000 : undefined
}
