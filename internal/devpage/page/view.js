// The list of events, newest first. However many arrive, the page stays quick: at most
// maxRows rows are in the document, and a frame adds at most perFrame of them.

import { plain } from './cache.js'

const maxRows = 300
const perFrame = 25
const maxKept = 1000 // events that a new filter can find again
const maxFields = 12
const glad = matchMedia('(prefers-reduced-motion: no-preference)')

const marks = { created: '+', updated: '~', deleted: '−', truncated: '∅' }

export class View {
  #list
  #newer
  #empty
  #kept = [] // newest last
  #queue = [] // to be shown, oldest first
  #waiting = 0 // came while held
  #paused = false
  #match = matcher('')
  #frame = 0

  constructor({ list, newer, empty }) {
    this.#list = list
    this.#newer = newer
    this.#empty = empty
    list.addEventListener('click', (e) => {
      // Selecting text is no click, and in an open event there is text to select.
      if (!e.target.closest('pre') && !getSelection()?.toString()) this.#toggle(e.target.closest('.row'))
    })
    list.addEventListener('keydown', (e) => this.#key(e))
    list.addEventListener('scroll', () => { if (this.#waiting && !this.#held()) this.catchUp() }, { passive: true })
    newer.addEventListener('click', () => {
      this.#close()
      list.scrollTop = 0
      if (!this.#paused) this.catchUp()
      list.focus({ preventScroll: true })
    })
  }

  // add shows items: {event, row, before, changed, keys, latency, late}.
  add(items) {
    this.#kept.push(...items)
    if (this.#kept.length > 2 * maxKept) this.#kept.splice(0, this.#kept.length - maxKept)
    if (this.#held()) {
      this.#waiting += items.filter(this.#match).length
      this.#offer()
      return
    }
    this.#show(items.filter(this.#match))
  }

  // note puts a line of text between the events: a cut, a gap, a reset.
  note(text, kind) {
    this.add([{ note: text, kind }])
  }

  filter(text) {
    this.#match = matcher(text)
    this.#again()
  }

  pause(on) {
    this.#paused = on
    if (!on) this.catchUp()
    this.#offer()
  }

  clear() {
    this.#kept = []
    this.#queue = []
    this.#waiting = 0
    this.#list.replaceChildren()
    this.#offer()
    this.#empty.hidden = false
  }

  // catchUp shows what came while the list was held.
  catchUp() {
    const n = this.#waiting
    this.#waiting = 0
    this.#offer()
    if (n > 0) this.#show(this.#kept.filter(this.#match).slice(-n))
  }

  // held: somebody has paused, or reads further down, or has an event open. Rows that
  // moved under his eyes would help nobody.
  #held() {
    return this.#paused || this.#list.scrollTop > 60 || this.#list.querySelector('.open') !== null
  }

  #offer() {
    this.#newer.hidden = this.#waiting === 0
    this.#newer.textContent = `${this.#waiting} newer ${this.#paused ? 'while paused' : '↑'}`
  }

  #again() {
    this.#queue = []
    this.#waiting = 0
    this.#list.replaceChildren()
    this.#offer()
    this.#show(this.#kept.filter(this.#match))
    if (!this.#list.children.length && !this.#queue.length) this.#empty.hidden = false
  }

  #show(items) {
    if (!items.length) return
    this.#queue.push(...items)
    // Rows that later ones would push out at once are not made at all.
    if (this.#queue.length > maxRows) this.#queue.splice(0, this.#queue.length - maxRows)
    this.#frame ||= requestAnimationFrame(() => this.#draw())
  }

  #draw() {
    this.#frame = 0
    const fresh = glad.matches && this.#queue.length <= 20
    const part = document.createDocumentFragment()
    for (const item of this.#queue.splice(0, perFrame)) part.prepend(item.note ? noteRow(item) : eventRow(item, fresh))
    this.#list.prepend(part)
    while (this.#list.children.length > maxRows) this.#list.lastElementChild.remove()
    this.#empty.hidden = true
    if (this.#queue.length) this.#frame = requestAnimationFrame(() => this.#draw())
  }

  #toggle(row) {
    if (!row?.item) return
    const open = row.querySelector('pre')
    row.classList.toggle('open', !open)
    row.firstElementChild.setAttribute('aria-expanded', String(!open))
    if (open) {
      open.remove()
      if (this.#waiting && !this.#held()) this.catchUp()
      return
    }
    row.append(make('pre', 'whole', JSON.stringify(row.item.event, null, 2)))
  }

  #close() {
    for (const row of this.#list.querySelectorAll('.open')) {
      row.classList.remove('open')
      row.firstElementChild.setAttribute('aria-expanded', 'false')
      row.querySelector('pre').remove()
    }
  }

  #key(e) {
    const row = document.activeElement?.closest('.row')
    const to = { ArrowDown: row ? row.nextElementSibling : this.#list.firstElementChild, ArrowUp: row?.previousElementSibling }[e.key]
    if (to) {
      to.firstElementChild.focus()
      e.preventDefault()
    } else if (row && (e.key === 'Enter' || e.key === ' ')) {
      this.#toggle(row)
      e.preventDefault()
    } else if (e.key === 'Escape') {
      this.#close()
      this.#list.focus()
    }
  }
}

function make(tag, name, text) {
  const el = document.createElement(tag)
  if (name) el.className = name
  if (text !== undefined) el.textContent = text
  return el
}

// lineOf is a row's one line, which the keyboard can reach.
function lineOf(li) {
  const line = make('div', 'line')
  line.tabIndex = -1
  li.append(line)
  return line
}

function noteRow({ note, kind }) {
  const li = make('li', `row between ${kind}`)
  lineOf(li).textContent = note
  return li
}

function eventRow(item, fresh) {
  const { event } = item
  const li = make('li', `row ${kindOf(event.event)}${fresh ? ' fresh' : ''}`)
  li.item = item
  const line = lineOf(li)
  line.setAttribute('role', 'button')
  line.setAttribute('aria-expanded', 'false')
  const topic = make('span', 'topic', event.topic)
  topic.title = event.topic
  const name = make('span', 'event')
  const mark = make('i', '', marks[event.event] ?? '•')
  mark.setAttribute('aria-hidden', 'true')
  name.append(mark, event.event)
  line.append(topic, make('span', 'seq', `#${event.seq}`), name, fieldsOf(item), latencyOf(item))
  return li
}

function kindOf(name) {
  return name in marks ? name : 'published'
}

function latencyOf({ latency, late }) {
  const el = make('span', 'latency')
  if (latency === undefined) {
    el.textContent = 'earlier'
    el.classList.add('earlier')
    el.title = 'Written before this page was there.'
    return el
  }
  const [n, unit] = millis(latency)
  el.append(n, make('small', '', unit))
  if (late) {
    el.classList.add('late')
    el.title = 'Written while this page was not connected, and delivered when it was.'
  }
  return el
}

// millis words a duration: [number, unit].
export function millis(ms) {
  if (ms >= 99_950) return [String(Math.round(ms / 1000)), 's']
  if (ms >= 999.5) return [(ms / 1000).toFixed(1), 's']
  return [ms >= 99.95 ? String(Math.round(ms)) : ms.toFixed(1), 'ms']
}

// fieldsOf shows a row in one line: its key, then what has changed, then the rest.
function fieldsOf({ event, row, before, changed, keys }) {
  const el = make('span', 'fields')
  if (event.oversize) return el.append(make('span', 'aside', 'larger than a frame may be; the log has it')), el
  if (event.event === 'truncated') return el.append(make('span', 'aside', 'every row of the table')), el
  if (!row) return el.append(make('span', 'v', word(event.data))), el
  const names = Object.keys(row)
  const told = event.topic.split(':') // what the topic says already is no news
  const rank = (c) => (keys.includes(c) ? 0 : changed?.has(c) ? 1 : row[c] === null ? 5 : isTime(row[c]) ? 4 : told.includes(String(row[c])) ? 3 : 2)
  names.sort((a, b) => rank(a) - rank(b)) // stable: otherwise in the table's order
  for (const c of names.slice(0, maxFields)) {
    const field = make('span', 'field')
    field.append(make('span', 'k', c))
    if (changed?.has(c)) {
      field.classList.add('changed')
      field.append(make('del', '', word(before[c])), make('ins', '', word(row[c])))
      field.title = `${c} was ${JSON.stringify(before[c])}`
    } else {
      field.append(make('span', 'v', word(row[c])))
    }
    el.append(field)
  }
  if (names.length > maxFields) el.append(make('span', 'aside', `and ${names.length - maxFields} more`))
  if (event.event === 'updated' && !changed) el.title = 'What has changed is not known: this page has not seen the row before.'
  return el
}

const time = /^\d{4}-\d\d-\d\d[T ](\d\d:\d\d:\d\d)/

function isTime(v) {
  return typeof v === 'string' && time.test(v)
}

// word gives a value in a few characters. Times lose their date: what passes here is of
// today, and the whole event shows it.
function word(v) {
  if (v === null || v === undefined) return 'null'
  if (typeof v === 'string') {
    const at = time.exec(v)
    if (at) return new Date(v).toLocaleTimeString([], { hour12: false })
    return v.length > 80 ? v.slice(0, 79) + '…' : v
  }
  const text = JSON.stringify(v)
  return text.length > 80 ? text.slice(0, 79) + '…' : text
}

// matcher makes a test of what is typed into the filter. Notes always pass.
function matcher(text) {
  const test = eventMatcher(text.trim())
  return (item) => item.note !== undefined || test(item)
}

// eventMatcher takes a pattern where the text has a * as a segment, else text to be found
// in topic, event or data.
function eventMatcher(text) {
  if (!text) return () => true
  const segments = text.split(':')
  if (segments.includes('*') || segments.at(-1) === '**') {
    const source = segments.map((s, i) =>
      s === '**' && i === segments.length - 1 ? '.+' : s === '*' ? '[^:]*' : s.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'))
    const pattern = new RegExp(`^${source.join(':')}$`)
    return ({ event }) => pattern.test(event.topic)
  }
  const small = text.toLowerCase()
  return (item) => {
    item.text ??= `${item.event.topic} ${item.event.event} ${plain(item.row) ? JSON.stringify(item.row) : word(item.event.data)}`.slice(0, 10_000).toLowerCase()
    return item.text.includes(small)
  }
}
