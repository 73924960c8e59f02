// What the server tells of itself: a line under the header while something it stands on is
// away.

const words = {
  redis: 'Redis is away: who is here and their cursors may be out of date until it is back. Events go on.',
  postgres: 'Postgres is away: events come when it is back, none will be missing.',
}

export class Health {
  #line
  #say
  #down = new Set()
  #timer = 0

  constructor(line, say) {
    this.#line = line
    this.#say = say
  }

  // read takes a frame that may be about the server's health.
  read({ type, topic, event, data }) {
    if (type === 'welcome') this.#down.clear() // what is away then is told after it
    else if (topic !== '__system') return
    else if (event === 'degraded') this.#down.add(data.backend)
    else if (event === 'recovered') this.#down.delete(data.backend)
    this.#timer ||= setTimeout(() => this.#draw(), 50)
  }

  #draw() {
    this.#timer = 0
    const text = [...this.#down].sort().map((b) => words[b] ?? `${b} is away.`).join(' ')
    if (this.#line.textContent === text) return
    this.#say(text || 'The server is well again.')
    this.#line.textContent = text
    this.#line.hidden = text === ''
  }
}
