// Who is here. Each tab is somebody, with a name and a colour of its own, and joins the
// presence of one topic, which tells the tabs of each other.

const palette = {
  Teal: '#0f766e', Violet: '#7c3aed', Orange: '#c2410c', Blue: '#2563eb',
  Rose: '#be185d', Green: '#15803d', Amber: '#a16207', Slate: '#64748b',
}
const colours = Object.values(palette)
const animals = ['Otter', 'Heron', 'Fox', 'Lynx', 'Wren', 'Badger', 'Hare', 'Owl', 'Seal', 'Finch', 'Crane', 'Puffin']
const faces = 5 // that have room in the header
const listed = 100
const patience = 3000 // before asking again what the server could not do

const key = 'pgcast-me'

export class People {
  #button
  #list
  #on
  #here = new Map() // by key
  #me // what the others are told of this tab
  #mine // its key
  #joined = false
  #timer = 0

  topic // to be set before it is connected

  // on has send(frame), joined() and say(text).
  constructor({ button, list }, on) {
    this.#button = button
    this.#list = list
    this.#on = on
    this.#me = recall()
    addEventListener('pagehide', () => keep(this.#me))
    addEventListener('pageshow', (e) => { if (e.persisted) recall() })
  }

  // connected asks who is here, to be somebody else, and then joins them.
  connected() {
    clearTimeout(this.#timer)
    this.#ask(this.#me ? 'join' : 'list')
  }

  // lost is to be called when the connection is: others may come and go unseen.
  lost() {
    clearTimeout(this.#timer)
    this.#joined = false
    this.#button.dataset.stale = ''
  }

  // joined tells whether the others know who this is.
  get joined() {
    return this.#joined
  }

  #ask(op) {
    this.#on.send({ type: 'presence', op, topic: this.topic, ref: `presence-${op}`, ...(op === 'join' && { data: this.#me }) })
  }

  // read takes a frame that may be about presence.
  read(frame) {
    if (frame.type === 'presence' && frame.op === 'list') {
      this.#me = invent(Object.values(frame.data.users))
      this.#ask('join')
    } else if (frame.type === 'presence' && frame.op === 'join') {
      this.#mine = frame.data.key
      this.#joined = true
      this.#on.joined()
    } else if (frame.type === 'error' && frame.ref === 'presence-list') {
      this.#me = invent([])
      this.#ask('join')
    } else if (frame.type === 'error' && frame.ref === 'presence-join' && frame.code !== 'unsupported') {
      this.#timer = setTimeout(() => this.connected(), frame.retry_after ?? patience)
    } else if (frame.topic === `__presence:${this.topic}`) {
      this.#told(frame.event, frame.data)
    }
  }

  #told(event, data) {
    if (event === 'presence_state') {
      this.#here = new Map(Object.entries(data))
      delete this.#button.dataset.stale
    } else if (event === 'presence_diff') {
      for (const k of Object.keys(data.leaves)) {
        // Who is in both has only changed.
        if (this.#here.has(k) && !data.joins[k]) this.#on.say(`${looks(k, this.#here.get(k)).name} has left.`)
        this.#here.delete(k)
      }
      for (const [k, user] of Object.entries(data.joins)) {
        if (!this.#here.has(k) && !data.leaves[k] && k !== this.#mine) this.#on.say(`${looks(k, user).name} is here.`)
        this.#here.set(k, user)
      }
    }
    this.#draw()
  }

  #draw() {
    const all = [...this.#here].map(([k, user]) => ({ ...looks(k, user), me: k === this.#mine }))
    all.sort((a, b) => b.me - a.me) // stable: the others in the order they came
    const n = all.length
    const words = n === 1 && all[0].me ? 'only you' : `${n.toLocaleString('en')} here`
    this.#button.hidden = n === 0
    this.#button.setAttribute('aria-label', `${words}: ${all.slice(0, 20).map((p) => p.name + (p.me && n > 1 ? ' (you)' : '')).join(', ')}`)
    const stack = make('span', 'faces')
    stack.append(...all.slice(0, faces).map(face))
    this.#button.replaceChildren(stack, make('span', 'count', words))
    this.#list.replaceChildren(...all.slice(0, listed).map((p) => {
      const li = make('li')
      li.append(face(p), make('span', 'name', p.name))
      if (p.me) li.append(make('span', 'note', 'you'))
      return li
    }))
    if (n > listed) this.#list.append(make('li', 'note', `and ${(n - listed).toLocaleString('en')} more`))
  }
}

function make(tag, name, text) {
  const el = document.createElement(tag)
  if (name) el.className = name
  if (text !== undefined) el.textContent = text
  return el
}

function face({ name, colour, me }) {
  const el = make('span', me ? 'face me' : 'face', initials(name))
  el.title = me ? `${name} (you)` : name
  el.style.setProperty('--who', colour)
  return el
}

function initials(name) {
  const words = name.split(/\s+/).filter(Boolean)
  return (words.length > 1 ? [words[0], words.at(-1)] : words).map((w) => [...w][0].toUpperCase()).join('') || '?'
}

// looks gives the name and colour of a user, who may be of another application and say
// anything of himself: a colour is one of those that text can be read on.
export function looks(k, user) {
  const said = [user?.name, user?.id, k].find((v) => typeof v === 'string' && v.trim()) ?? 'somebody'
  const colour = colours.find((c) => c === user?.color)
  let sum = 0
  for (const c of String(k)) sum = (sum * 31 + c.codePointAt(0)) % 9973
  return { name: said.trim().slice(0, 40), colour: colour ?? colours[sum % colours.length] }
}

// invent makes up somebody in a colour that nobody has, while there is one.
function invent(others) {
  const pick = (list) => list[Math.floor(Math.random() * list.length)]
  const free = Object.keys(palette).filter((word) => !others.some((o) => o?.color === palette[word]))
  const word = pick(free.length ? free : Object.keys(palette))
  const id = [...crypto.getRandomValues(new Uint8Array(8))].map((b) => b.toString(16).padStart(2, '0')).join('')
  return { id, name: `${word} ${pick(animals)}`, color: palette[word] }
}

// A tab stays who it is when it is reloaded. It is in the storage only meanwhile: a tab
// that is duplicated copies what is there, and would be the same one as this.
function keep(me) {
  try {
    if (me) sessionStorage.setItem(key, JSON.stringify(me))
  } catch {
    // Storage is forbidden: it will be somebody else.
  }
}

function recall() {
  try {
    const me = JSON.parse(sessionStorage.getItem(key))
    sessionStorage.removeItem(key)
    return me ?? undefined
  } catch {
    return undefined
  }
}
