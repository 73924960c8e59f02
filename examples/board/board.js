// A board: pointers are cursors, which nobody stores; a note is the newest event of its id.
import { rows } from '/client/rows.js'
import { list, make, me, rt } from '../page.js'

const [board, notesAt, cursorsAt] = ['board', 'notes', 'cursors'].map((id) => document.getElementById(id))
const room = rt.topic('board:1', { snapshot: true })
const notes = rows(room)
const share = (v, of) => Math.round(Math.min(Math.max(v / of, 0), 1) * 1e4) / 1e4
const at = (e) => ({ x: share(e.clientX, board.clientWidth), y: share(e.clientY - board.offsetTop, board.clientHeight) }) // windows differ in size
let fresh // the note that was made here last, to be written on
const put = (e, { x, y }) => Object.assign(e.style, { left: `${x * 100}%`, top: `${y * 100}%` })

// Shown at once, and settled by the id of the event that it becomes.
const change = (note) => notes.write({ put: note }, () => room.publish('updated', note))
const drop = ({ id }) => notes.write({ remove: id }, () => room.publish('deleted', { id }))

board.addEventListener('pointermove', (e) => room.cursors.move(at(e)))
board.addEventListener('pointerleave', () => room.cursors.leave())
room.cursors.subscribe((all) => list(cursorsAt, [...all.values()], (c) => c.key, (c, e = make('div', { className: 'cursor' }, make('b', {}))) => {
  e.firstChild.textContent = c.user?.name ?? ''
  e.style.setProperty('--who', c.user?.color)
  put(e, c.data)
  return e
}))

function draw(note, e = make('div', { className: 'note' }, make('button', { textContent: '⠿', ariaLabel: 'Move' }), make('textarea', { rows: 3, ariaLabel: 'Note' }))) {
  const [handle, text] = e.children
  if (!e.isConnected && note.id === fresh) setTimeout(() => text.focus())
  e.style.setProperty('--who', note.color)
  if (!e.dataset.held) put(e, note)
  if (document.activeElement !== text) text.value = note.text
  text.onchange = () => (text.value.trim() ? change({ ...note, text: text.value }) : drop(note))
  handle.onpointerdown = (down) => { handle.setPointerCapture(down.pointerId); e.dataset.held = 'yes' }
  handle.onpointermove = (move) => e.dataset.held && put(e, at(move))
  handle.onlostpointercapture = (up) => { delete e.dataset.held; change({ ...note, ...at(up) }) }
  handle.onkeydown = ({ key }) => {
    const by = { ArrowLeft: [-0.02, 0], ArrowRight: [0.02, 0], ArrowUp: [0, -0.02], ArrowDown: [0, 0.02] }[key]
    if (by) change({ ...note, x: share(note.x + by[0], 1), y: share(note.y + by[1], 1) })
    if (key === 'Delete') drop(note)
  }
  return e
}
notes.subscribe(({ rows }) => list(notesAt, rows, (n) => n.id, draw))
board.addEventListener('dblclick', (e) => {
  if (e.target !== board) return
  const note = { id: crypto.randomUUID(), text: '', color: me.color, ...at(e) }
  fresh = note.id
  change(note)
})
