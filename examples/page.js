// What the examples share: who this window is, its connection, its header, and how elements are made.
import { connect } from '/client/index.js'

const any = (...list) => list[Math.floor(Math.random() * list.length)]
const somebody = () => ({ id: crypto.randomUUID(), name: any('Ada', 'Alan', 'Edgar', 'Grace', 'Hedy', 'Lin'), color: any('#0f6b7d', '#8a4b08', '#6547ab', '#ac3328', '#22713f') })
export const me = JSON.parse(sessionStorage.getItem('me')) ?? somebody()
const remember = (name = me.name) => sessionStorage.setItem('me', JSON.stringify({ ...me, name }))
remember()

let light = 0 // at the end of a tunnel, in which connections come to nothing
const nothing = () => { const none = { close() {} }; setTimeout(() => none.onclose?.({ code: 1006 }), 20); return none }
function Wire(...to) { return Date.now() < light ? nothing() : new WebSocket(...to) }
// Each window is somebody, so none shares its connection with another.
export const rt = connect(location.origin, { user: me, share: false, WebSocket: Wire })

// Makes an element. Texts stay texts: nothing that others wrote becomes HTML.
export const make = (tag, props, ...children) => { const e = Object.assign(document.createElement(tag), props); e.append(...children); return e }
export function list(parent, items, key, draw) { // an element for each item, in order: draw makes it, or updates the one that is there
  const had = new Map([...parent.children].map((e) => [e.dataset.key, e]))
  items.forEach((item, i) => {
    const e = draw(item, had.get(String(key(item))))
    e.dataset.key = key(item)
    had.delete(e.dataset.key)
    if (parent.children[i] !== e) parent.insertBefore(e, parent.children[i] ?? null)
  })
  for (const e of had.values()) e.remove()
}
const cut = () => { light = Date.now() + 5000; rt.cut() }
const rename = ({ target }) => { remember(target.value); location.reload() }
const state = make('span', { id: 'state', role: 'status' })
rt.status.subscribe((s) => { state.textContent = state.className = s.state })
document.body.prepend(make('header', {}, make('h1', { textContent: document.title }), state,
  make('input', { value: me.name, maxLength: 30, ariaLabel: 'Your name', onchange: rename }), make('button', { textContent: 'Cut for 5 s', onclick: cut })))
