// A board over two SQL tables: what anybody writes to them shows here, and what is done here is SQL.
import { rows } from '/client/rows.js'
import { list, make, rt } from '../page.js'
import { sql } from '../sql.js'

const [board, note] = ['lists', 'note'].map((id) => document.getElementById(id))
const lists = rows(rt.topic('kanban:lists', { snapshot: true }), { sort: (a, b) => a.id - b.id })
const cards = rows(rt.topic('kanban:cards', { snapshot: true }), { sort: (a, b) => a.place - b.place })
const inList = (id) => cards.get().rows.filter((c) => c.list === id)
const beside = (card, by) => lists.get().rows[lists.get().rows.findIndex((l) => l.id === card.list) + by]?.id
let dragged // a card, while it is: what is dragged from elsewhere is none

// A change shows at once. The row that the statement makes settles it; a statement that fails takes it back.
const write = (change, ...statement) => cards.write(change, () => sql(...statement)).catch((err) => { note.textContent = err.message })
function move(card, to, at = Infinity) { // before the card that is at that place there
  if (to === undefined) return
  const others = inList(to).filter((c) => c.id !== card.id)
  const [before, after] = [others[Math.min(at, others.length) - 1], others[at]].map((c) => c?.place)
  const place = before === undefined ? (after ?? 1) - 1 : after === undefined ? before + 1 : (before + after) / 2
  write({ patch: { id: card.id, list: to, place } }, 'update example_kanban.cards set list = $2, place = $3 where id = $1', card.id, to, place)
}
function add(to, title) {
  const card = { id: crypto.randomUUID(), list: to, title, place: (inList(to).at(-1)?.place ?? 0) + 1 }
  if (title) write({ put: card }, 'insert into example_kanban.cards (id, list, title, place) values ($1, $2, $3, $4)', card.id, to, title, card.place)
}
const remove = (card) => write({ remove: card.id }, 'delete from example_kanban.cards where id = $1', card.id)

function drawCard(card, li = make('li', { draggable: true, tabIndex: 0 }, make('p', {}), ...['‹', '›', '×'].map((textContent) => make('button', { textContent })))) {
  const [title, ...buttons] = li.children
  title.textContent = card.title
  li.className = cards.get().pending.has(card.id) ? 'pending' : ''
  const at = inList(card.list).findIndex((c) => c.id === card.id)
  const acts = { ArrowLeft: () => move(card, beside(card, -1)), ArrowRight: () => move(card, beside(card, 1)), Delete: () => remove(card),
    ArrowUp: () => move(card, card.list, Math.max(0, at - 1)), ArrowDown: () => move(card, card.list, at + 1) }
  buttons.forEach((b, i) => Object.assign(b, { ariaLabel: `${['Move left', 'Move right', 'Remove'][i]}: ${card.title}`, onclick: Object.values(acts)[i] }))
  li.ondragstart = () => { dragged = card }
  li.ondragend = () => { dragged = undefined }
  li.onkeydown = (e) => e.target === li && acts[e.key] && (e.preventDefault(), acts[e.key]())
  return li
}
const blank = () => make('li', {}, make('h2', {}), make('ul', {}), make('form', {}, make('input', { ariaLabel: 'A new card', placeholder: 'A new card' })))
function drawList({ id, name }, li = blank()) {
  const [title, ul, form] = li.children
  title.textContent = name
  list(ul, inList(id), (c) => c.id, drawCard)
  ul.ondragover = (e) => dragged && e.preventDefault()
  ul.ondrop = ({ clientY }) => {
    const at = [...ul.children].filter((li) => li.dataset.key !== dragged.id).findIndex((li) => clientY < li.getBoundingClientRect().top + li.offsetHeight / 2)
    move(dragged, id, at < 0 ? Infinity : at)
    dragged = undefined // its element may be gone before the drag ends
  }
  form.onsubmit = (e) => { e.preventDefault(); add(id, form[0].value.trim()); form.reset() }
  return li
}
function draw() {
  const focus = document.activeElement?.dataset.key // a card that moves to another list is another element there
  list(board, lists.get().rows, (l) => l.id, drawList)
  if (focus && !document.activeElement?.dataset.key) document.querySelector(`li[data-key="${focus}"]`)?.focus()
}
lists.subscribe(draw)
cards.subscribe(draw)
