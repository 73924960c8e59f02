// The others' cursors over the live stream, and this tab's for the others. A place is told
// as fractions of the part of the page it is in, so that windows of any size agree.

import { looks } from './people.js'

const every = 50 // ms between two frames, at least
const rest = 15_000 // after which a cursor that does not move is out of the way
const away = { mouse: 500, touch: 2500, pen: 2500 } // after it has left; a finger is gone between two touches

export class Cursors {
  #area
  #layer
  #on
  #others = new Map() // by key: {el, at, timer}
  #place // of the own pointer, to be sent
  #timer = 0
  #leave = 0
  #shown = false // to the others

  topic // to be set before start

  // area is where the pointer counts, layer lies over it; elements of the area with
  // data-part are its parts. on has send(frame) and ready().
  constructor({ area, layer }, on) {
    this.#area = area
    this.#layer = layer
    this.#on = on
    for (const type of ['pointermove', 'pointerdown']) area.addEventListener(type, (e) => this.#moved(e), { passive: true })
    area.addEventListener('pointerleave', (e) => { this.#leave = setTimeout(() => this.#gone(), away[e.pointerType]) })
    document.addEventListener('visibilitychange', () => { if (document.hidden) this.#gone() })
    const again = new ResizeObserver(() => { for (const o of this.#others.values()) this.#put(o) })
    for (const el of [area, ...area.querySelectorAll('[data-part]')]) again.observe(el)
  }

  // start asks for the others' cursors.
  start() {
    this.#on.send({ type: 'cursor-snapshot', topic: this.topic })
  }

  // clear forgets all; the connection is lost.
  clear() {
    for (const k of [...this.#others.keys()]) this.#remove(k)
    this.#shown = false
  }

  // read takes a frame that may be about cursors.
  read({ topic, event, data }) {
    if (topic !== `__cursor:${this.topic}`) return
    if (event === 'remove') return this.#remove(data.key)
    const list = event === 'update' ? [data] : event === 'bulk' || event === 'snapshot' ? data : []
    if (event === 'snapshot') for (const k of [...this.#others.keys()]) if (!list.some((c) => c.key === k)) this.#remove(k)
    for (const c of list) this.#update(c)
  }

  #moved({ target, clientX, clientY }) {
    clearTimeout(this.#leave)
    const part = target.closest('[data-part]')
    const box = (part ?? this.#area).getBoundingClientRect()
    const share = (v) => Math.round(Math.min(Math.max(v, 0), 1) * 1e4) / 1e4
    this.#place = { ...(part && { part: part.dataset.part }), x: share((clientX - box.x) / box.width), y: share((clientY - box.y) / box.height) }
    if (!this.#timer) this.#send()
  }

  // send sends at once, and what comes too soon after it later: the last place is never lost.
  #send() {
    if (this.#on.ready()) {
      this.#on.send({ type: 'cursor', topic: this.topic, data: this.#place })
      this.#shown = true
    }
    this.#place = undefined
    this.#timer = setTimeout(() => {
      this.#timer = 0
      if (this.#place) this.#send()
    }, every)
  }

  #gone() {
    this.#place = undefined
    if (this.#shown && this.#on.ready()) this.#on.send({ type: 'cursor', topic: this.topic, op: 'leave' })
    this.#shown = false
  }

  #update({ key, user, data }) {
    // Other applications may have cursors here that mean something else.
    if (!(data?.x >= 0 && data.x <= 1 && data.y >= 0 && data.y <= 1)) return this.#remove(key)
    let other = this.#others.get(key)
    if (!other) {
      const { name, colour } = looks(String(user?.id ?? key), user)
      other = { el: arrow(name, colour) }
      this.#others.set(key, other)
    }
    other.at = data
    this.#put(other) // before it is there: it does not fly in from the corner
    if (!other.el.isConnected) this.#layer.append(other.el)
    other.el.classList.remove('resting')
    clearTimeout(other.timer)
    other.timer = setTimeout(() => other.el.classList.add('resting'), rest)
  }

  #put({ el, at }) {
    const part = [...this.#area.querySelectorAll('[data-part]')].find((p) => p.dataset.part === at.part)
    const box = (part ?? this.#area).getBoundingClientRect()
    const over = this.#layer.getBoundingClientRect()
    const [x, y] = [box.x - over.x + at.x * box.width, box.y - over.y + at.y * box.height]
    el.hidden = box.width === 0 // not on the panel that a phone shows
    el.style.transform = `translate(${x.toFixed(1)}px, ${y.toFixed(1)}px)`
    // The name stays within the part, and off the controls.
    el.classList.toggle('left', x > over.width - 150)
    el.classList.toggle('above', (1 - at.y) * box.height < 42)
    el.classList.toggle('nameless', at.part === 'tools')
  }

  #remove(key) {
    const other = this.#others.get(key)
    if (!other) return
    clearTimeout(other.timer)
    this.#others.delete(key)
    other.el.remove()
  }
}

const svg = 'http://www.w3.org/2000/svg'

function arrow(name, colour) {
  const el = document.createElement('div')
  el.className = 'cursor'
  el.style.setProperty('--who', colour)
  const shape = document.createElementNS(svg, 'svg')
  shape.setAttribute('viewBox', '0 0 16 18')
  const path = document.createElementNS(svg, 'path')
  path.setAttribute('d', 'M1 1v14.2l3.9-3.6 2.4 5.2 2.5-1.2-2.4-5.1 5.3-.5z')
  shape.append(path)
  const tag = document.createElement('span')
  tag.textContent = name
  el.append(shape, tag)
  return el
}
