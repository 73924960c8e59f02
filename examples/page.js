// What the examples share: who this window is, its connection, its header, and how elements are made.
import { connect } from '/client/index.js'

const any = (...list) => list[Math.floor(Math.random() * list.length)]
const somebody = () => ({ id: crypto.randomUUID(), name: any('Ada', 'Alan', 'Barbara', 'Edgar', 'Grace'), color: any('#0f6b7d', '#8a4b08', '#6547ab', '#ac3328', '#22713f') })
export const me = JSON.parse(sessionStorage.getItem('me')) ?? somebody()
const remember = () => sessionStorage.setItem('me', JSON.stringify(me))
remember()
// Each window is somebody, so none shares its connection with another.
export const rt = connect(location.origin, { user: me, share: false })

export function make(tag, props, ...children) { // texts stay texts: nothing that others wrote becomes HTML
  const e = Object.assign(document.createElement(tag), props)
  e.append(...children)
  return e
}
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
const cut = () => { dispatchEvent(new Event('offline')); rt.cut(); setTimeout(() => dispatchEvent(new Event('online')), 5000) } // as a tunnel does
const rename = ({ target }) => { me.name = target.value; remember(); location.reload() }
const state = make('span', { id: 'state', role: 'status' })
rt.status.subscribe((s) => { state.textContent = state.className = s.state })
document.body.prepend(make('header', {}, make('h1', { textContent: document.title }), state,
  make('input', { value: me.name, maxLength: 30, ariaLabel: 'Your name', onchange: rename }), make('button', { textContent: 'Cut for 5 s', onclick: cut })))
