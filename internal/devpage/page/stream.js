// The stream is one subscription to a pattern that survives its connections: it keeps its
// place, the position and id of the newest event, and asks for everything after it each
// time it connects. That is all a client has to do to miss nothing and get nothing twice.

const quietest = 75_000 // without a frame: the server sends one every 50 s at least
const backOff = [250, 500, 1000, 2000, 4000]

// Close codes after which coming back would not help.
const final = {
  1008: 'The server has closed the connection: this page broke the protocol.',
  4401: 'The server asks for a sign-in, which this page does not have.',
  4403: 'The server does not let this page in.',
}

export class Stream {
  #url
  #pattern
  #on
  #place // {after, id}; undefined until the first place is known
  #ws = null
  #timer = 0
  #watch = 0
  #failed = 0
  #held = false // cut on purpose
  #over = false // the server has said not to come back

  // on has events(list), subscribed(place), gap(frame), reset(head), state({kind, text,
  // until}) and other(frame), which gets what is not of this subscription.
  constructor(url, pattern, on) {
    this.#url = url
    this.#pattern = pattern
    this.#on = on
  }

  // start connects; after, if known, is the position to begin after.
  start(after) {
    if (after !== undefined) this.#place = { after }
    this.#connect()
  }

  // cut closes the connection and hears nothing of what is still on its way. It stays
  // down until mend.
  cut() {
    this.#held = true
    this.#drop()
    this.#on.state({ kind: 'cut', text: 'Wire cut' })
  }

  mend() {
    if (!this.#held) return
    this.#held = false
    this.#failed = 0
    this.#connect()
  }

  // hurry tries again now, for instance because the machine is online again.
  hurry() {
    if (this.#held || this.#over || this.#ws) return
    this.#failed = 0
    this.#connect()
  }

  // send sends a frame of somebody else's, if there is a connection.
  send(frame) {
    if (this.#ws?.readyState === WebSocket.OPEN) this.#send(frame)
  }

  #connect() {
    clearTimeout(this.#timer)
    this.#on.state({ kind: 'connecting', text: this.#failed > 0 ? 'Reconnecting…' : 'Connecting…' })
    const ws = new WebSocket(this.#url)
    this.#ws = ws
    // A socket that was dropped may still have something to say; nobody listens to it.
    const mine = (handle) => (e) => { if (this.#ws === ws) handle(e) }
    ws.onopen = mine(() => {
      this.#alive()
      this.#send({ type: 'hello', caps: ['batch', 'reset'] })
      this.#send({ type: 'subscribe', topic: this.#pattern, ref: 1, ...this.#place })
    })
    ws.onmessage = mine((e) => {
      this.#alive()
      this.#read(JSON.parse(e.data))
    })
    ws.onclose = mine((e) => this.#closed(e))
  }

  #send(frame) {
    this.#ws.send(JSON.stringify(frame))
  }

  #read(frame) {
    switch (frame.type) {
      case undefined:
        return this.#events([frame])
      case 'batch':
        return this.#events(frame.events)
      case 'subscribed':
        this.#failed = 0
        // Another place than the one asked for announces a reset. Until that comes the
        // old place stays: a connection that breaks in between must not hide it.
        this.#place ??= { after: frame.seq }
        this.#on.subscribed(frame.seq)
        return this.#on.state({ kind: 'live', text: 'Live' })
      case 'gap':
        return this.#on.gap(frame)
      case 'reset':
        this.#place = { after: frame.head }
        return this.#on.reset(frame.head)
      case 'subscribe-denied':
        return this.#retry(`The server refused the subscription (${frame.reason}).`)
      case 'error':
        if (frame.ref === 1) return this.#retry(`The server says: ${frame.message}`)
    }
    this.#on.other(frame)
  }

  #events(list) {
    // The server's own events have no place.
    const placed = list.filter((e) => e.position)
    const last = placed.at(-1)
    if (last) {
      this.#place = { after: last.position, id: last.id }
      this.#on.events(placed)
    }
    for (const e of list) if (!e.position) this.#on.other(e)
  }

  // alive puts off the moment at which silence counts as a dead connection. The browser
  // itself may take many minutes to notice one.
  #alive() {
    clearTimeout(this.#watch)
    this.#watch = setTimeout(() => this.#retry('The server has been silent for too long.'), quietest)
  }

  #drop() {
    const ws = this.#ws
    this.#ws = null
    clearTimeout(this.#watch)
    clearTimeout(this.#timer)
    ws?.close()
  }

  #closed(e) {
    if (final[e.code]) {
      this.#over = true
      this.#drop()
      this.#on.state({ kind: 'refused', text: final[e.code] })
      return
    }
    const hint = e.code === 1001 && /^retry=(\d+)$/.exec(e.reason)
    this.#retry(hint ? 'The server is going away.' : 'The server is gone.', hint ? Number(hint[1]) : undefined)
  }

  #retry(why, wait) {
    this.#drop()
    const base = backOff[Math.min(this.#failed++, backOff.length - 1)]
    // Not all clients of a restarted server at the same moment.
    wait ??= base / 2 + Math.random() * base
    this.#on.state({ kind: 'waiting', text: why, until: performance.now() + wait })
    this.#timer = setTimeout(() => this.#connect(), wait)
  }
}
