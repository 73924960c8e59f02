// The ledger checks the promise that this page is about: nothing is lost, nothing comes
// twice. It knows nothing of sockets and reconnects; it only counts what arrives.
//
// A subscription to ** gets every event, and positions have no holes, so a hole in the
// positions is a lost event and a position for the second time is a doubled one. The seqs
// of each topic are a second, independent witness: they are looked at wherever the
// positions find nothing to complain about.

const maxTopics = 10_000 // whose seq is remembered

export class Ledger {
  position = 0 // of the newest event
  events = 0
  missed = 0
  doubled = 0
  late = 0 // came after a later one, hence out of order
  trimmed = 0 // announced by a gap, so not missed

  #started = false
  #gone = 0 // positions below this may be missing: a gap said so
  #holes = [] // [first, last] of what is missed, to recognise what comes late
  #seqs = new Map()

  // start sets the place the subscription begins after.
  start(position) {
    this.position = position
    this.#started = true
  }

  // take counts one event and tells what it is: 'next', 'doubled', 'late', or 'hole' for
  // one that has a hole before it.
  take(event) {
    const { position, topic, seq } = event
    if (!(position > 0)) return 'next' // the server's own events have no place
    if (!this.#started) this.start(position - 1)
    this.events++
    if (position <= this.position) return this.#again(position)
    const from = this.position + 1
    this.position = position
    if (position > from) {
      this.#hole(from, position - 1)
      this.#remember(topic, seq)
      return 'hole'
    }
    const before = this.#seqs.get(topic)
    this.#remember(topic, seq)
    if (before === undefined || seq === before + 1 || position <= this.#gone) return 'next'
    if (seq <= before) {
      this.doubled++
      return 'doubled'
    }
    this.missed += seq - before - 1
    return 'hole'
  }

  // gap: some events before position tail have been trimmed.
  gap(tail) {
    this.#gone = Math.max(this.#gone, tail)
  }

  // reset: the history is another one; nothing of what was counted on holds.
  reset(head) {
    this.position = head
    this.#gone = 0
    this.#holes = []
    this.#seqs.clear()
  }

  #hole(first, last) {
    const excused = Math.min(Math.max(this.#gone - first, 0), last - first + 1)
    this.trimmed += excused
    if (first + excused > last) return
    this.missed += last - (first + excused) + 1
    this.#holes.push([first + excused, last])
    if (this.#holes.length > 100) this.#holes.shift()
  }

  #again(position) {
    const i = this.#holes.findIndex(([first, last]) => position >= first && position <= last)
    if (i < 0) {
      this.doubled++
      return 'doubled'
    }
    const [first, last] = this.#holes[i]
    const parts = [[first, position - 1], [position + 1, last]].filter(([a, b]) => a <= b)
    this.#holes.splice(i, 1, ...parts)
    this.missed--
    this.late++
    return 'late'
  }

  #remember(topic, seq) {
    this.#seqs.delete(topic) // the map is in order of use: the oldest goes first
    this.#seqs.set(topic, seq)
    if (this.#seqs.size > maxTopics) this.#seqs.delete(this.#seqs.keys().next().value)
  }
}
