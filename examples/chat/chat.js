// A chat without a table: what is said are events of a topic, and the log keeps them.
import { list, make, me, rt } from '../page.js'

const [rooms, people, messages, typing, form, text] = ['rooms', 'people', 'messages', 'typing', 'form', 'text'].map((id) => document.getElementById(id))
let room, said, quiet // the topic, its messages by their own id, and when one has stopped typing

function show() {
  const low = messages.scrollTop + messages.clientHeight > messages.scrollHeight - 40
  list(messages, [...said.values()], (m) => m.id, (m, li = make('li', {}, make('b', {}), make('time', {}), make('p', {}))) => {
    const [name, time, words] = li.children
    Object.assign(li, { className: m.state ?? '', title: m.problem ?? '' }).style.setProperty('--who', m.color)
    name.textContent = m.name
    time.textContent = { pending: 'sending', failed: 'not sent' }[m.state] ?? new Date(m.at).toLocaleTimeString([], { timeStyle: 'short' })
    words.textContent = m.text
    return li
  })
  if (low) messages.scrollTop = messages.scrollHeight
}

function enter() {
  room?.close()
  const name = location.hash.slice(1) || 'lobby'
  list(rooms, ['lobby', 'engineering', 'lunch'], (n) => n, (n) => make('li', {}, make('a', { href: `#${n}`, textContent: n, ariaCurrent: n === name })))
  said = new Map()
  show()
  // What the log still has, and then whatever follows, however often the connection breaks.
  room = rt.topic(`chat:${name}`, { snapshot: true })
  room.on('snapshot', ({ first, events }) => {
    if (first) for (const m of said.values()) if (!m.state) said.delete(m.id)
    for (const { data } of events) said.set(data.id, data)
    show()
  })
  room.on('said', ({ data }) => { // one's own as well: it has the id of the pending one, and takes its place
    said.set(data.id, data)
    show()
  })
  room.presence.join(me).catch(console.warn)
  room.presence.subscribe((here) => list(people, [...here], ([key]) => key, ([, { name, color }], li = make('li', {})) => {
    li.textContent = name ?? 'somebody'
    li.style.setProperty('--who', color)
    return li
  }))
  // Cursors are of this moment and never stored: right for who is typing.
  room.cursors.subscribe((all) => { typing.textContent = [...all.values()].map((c) => `${c.user?.name} is typing…`).join(' ') })
}

text.addEventListener('input', () => {
  room.cursors.move({ typing: true })
  clearTimeout(quiet)
  quiet = setTimeout(() => room.cursors.leave(), 3000)
})
form.addEventListener('submit', (e) => {
  e.preventDefault()
  const m = { id: crypto.randomUUID(), at: Date.now(), text: text.value.trim(), name: me.name, color: me.color }
  if (!m.text) return
  said.set(m.id, { ...m, state: 'pending' })
  room.publish('said', m).catch((err) => { // it is sent again by itself when the connection broke; this is a refusal
    said.set(m.id, { ...m, state: 'failed', problem: err.message })
    show()
  })
  text.value = ''
  room.cursors.leave()
  show()
  messages.scrollTop = messages.scrollHeight
})
addEventListener('hashchange', enter)
enter()
