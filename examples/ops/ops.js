// What is going on in a company: live tables, one of them filtered, and a log over many topics.
import { rows } from '/client/rows.js'
import { list, make, rt } from '../page.js'
import { sql } from '../sql.js'

const [servicesAt, incidentsAt, log, errors, tick, blank] = ['services', 'incidents', 'log', 'errors', 'tick', 'service'].map((id) => document.getElementById(id))
const services = rows(rt.topic('ops:services', { snapshot: true }), { key: 'name', sort: (a, b) => a.name.localeCompare(b.name) })
const incidents = rows(rt.topic('ops:incidents', { snapshot: true, filter: 'closed is null' }), { sort: (a, b) => b.id - a.id })

function drawService({ name, team, rates, p99 }, li = blank.content.firstElementChild.cloneNode(true)) {
  const broken = incidents.get().rows.find((i) => i.service === name)
  const texts = [name, team, '', `${rates.at(-1)}/s`, `p99 ${p99} ms`, broken?.title ?? 'fine']
  texts.forEach((text, i) => { if (text) li.children[i].textContent = text })
  li.className = broken ? 'broken' : ''
  li.querySelector('polyline').setAttribute('points', rates.map((rate, i) => `${i * 3},${31 - Math.min(rate, 200) * 0.15}`).join(' '))
  return li
}
function drawIncident(i, li = make('li', {}, ...['b', 'span', 'time', 'button'].map((tag) => make(tag, {})))) {
  const texts = [i.service, i.title, new Date(i.opened).toLocaleTimeString(), 'Close']
  texts.forEach((text, n) => { li.children[n].textContent = text })
  // It goes at once, and for good when the database says that it is out of the filter.
  li.lastChild.onclick = () => incidents.write({ remove: i.id }, () => sql('update example_ops.incidents set closed = now() where id = $1', i.id))
  return li
}
services.subscribe(({ rows }) => list(servicesAt, rows, (s) => s.name, drawService))
incidents.subscribe(({ rows }) => {
  list(incidentsAt, rows, (i) => i.id, drawIncident)
  list(servicesAt, services.get().rows, (s) => s.name, drawService) // which say what is open
})

let lines
function follow() { // all services in one stream, from the oldest line that is kept; the filter is the server's work
  lines?.close()
  log.replaceChildren()
  lines = rt.topic('ops:log:*', { after: 0, ...(errors.checked && { filter: "level = 'error'" }) })
  lines.on('line', ({ topic, data }) => {
    log.prepend(make('li', { className: data.level }, make('b', { textContent: topic.split(':')[2] }), make('span', { textContent: data.text })))
    if (log.children.length > 60) log.lastChild.remove()
  })
}
errors.onchange = follow
follow()
tick.onclick = () => sql('select example_ops.tick() from generate_series(1, 10)').catch(console.warn)
