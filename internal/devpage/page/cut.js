// Cut my wire: drops the socket, lets others write meanwhile, comes back, and says from the
// ledger what was lost or came twice.

const patience = 15_000 // for the stream to catch up after it is connected again

// head asks the server how far the log is, whether or not the stream is connected.
export async function head(signal) {
  const answer = await fetch('/dev/head', { signal })
  const body = await answer.json()
  if (body.error) throw new Error(body.error.message)
  return body
}

export class Cutter {
  #stream
  #ledger
  #on
  #wake = () => {}
  running = false

  // on has tick({left, written}), reconnecting() and done(result).
  constructor(stream, ledger, on) {
    this.#stream = stream
    this.#ledger = ledger
    this.#on = on
  }

  // arrived is to be called whenever the ledger has moved on.
  arrived() {
    this.#wake()
  }

  async cut(seconds) {
    if (this.running) return
    this.running = true
    const { position, missed, doubled, late, trimmed, events } = this.#ledger
    this.#stream.cut()
    const written = await this.#wait(seconds * 1000, position)
    this.#on.reconnecting()
    const began = performance.now()
    this.#stream.mend()
    const caughtUp = await this.#catchUp()
    const ledger = this.#ledger
    this.running = false
    this.#on.done({
      from: position,
      upto: ledger.position,
      missed: ledger.missed - missed,
      doubled: ledger.doubled - doubled,
      late: ledger.late - late,
      trimmed: ledger.trimmed - trimmed,
      arrived: ledger.events - events,
      written,
      caughtUp,
      took: performance.now() - began,
    })
  }

  // wait counts down, and counts what others write meanwhile.
  async #wait(ms, position) {
    const until = performance.now() + ms
    let written = 0
    let asking = false
    while (true) {
      const left = until - performance.now()
      if (left <= 0) return written
      this.#on.tick({ left, written })
      if (!asking) {
        asking = true
        head(AbortSignal.timeout(2000))
          .then((h) => { written = Math.max(written, h.position - position) })
          .catch(() => {}) // the count is decoration; the ledger decides
          .finally(() => { asking = false })
      }
      await new Promise((done) => setTimeout(done, Math.min(left, 100)))
    }
  }

  // catchUp waits until everything that was in the log when the wire was mended is here.
  // Asked after mending: what was written up to then had to be resumed.
  async #catchUp() {
    const until = performance.now() + patience
    let target
    while (performance.now() < until) {
      try {
        target ??= (await head(AbortSignal.timeout(2000))).position
        if (this.#ledger.position >= target) return true
      } catch {
        // The server may be gone as well; it is asked again.
      }
      await new Promise((done) => {
        this.#wake = done
        setTimeout(done, 200)
      })
    }
    return false
  }
}

// verdict words a result: [the result in one line, the rest, whether it is good].
export function verdict(r) {
  const n = (v) => v.toLocaleString('en')
  const events = (v) => (v === 1 ? '1 event' : `${n(v)} events`)
  const counts = `missed ${n(r.missed)}, doubled ${n(r.doubled)}, resumed from #${n(r.from)}`
  if (!r.caughtUp) {
    return [`${counts} so far`, 'The server has not sent everything yet; what is still to come counts above.', false]
  }
  const parts = [`${events(r.arrived)} written meanwhile, all here ${n(Math.round(r.took))} ms after reconnecting`]
  if (r.arrived === 0) parts[0] = 'nobody wrote meanwhile: run some SQL during the cut'
  if (r.late > 0) parts.push(`${n(r.late)} out of order`)
  if (r.trimmed > 0) parts.push(`${n(r.trimmed)} announced as trimmed by retention`)
  return [counts, parts.join('; '), r.missed === 0 && r.doubled === 0 && r.late === 0]
}
