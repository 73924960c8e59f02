// Joins the parts: the stream feeds the ledger, the ledger and the cache tell the list,
// the plot and the figures what has come.

import { Cache } from './cache.js'
import * as clock from './clock.js'
import { codeTab, shellTab } from './code.js'
import { Cursors } from './cursors.js'
import { Cutter, head, verdict } from './cut.js'
import { Health } from './health.js'
import { Ledger } from './ledger.js'
import { People } from './people.js'
import { Figures, Plot } from './plot.js'
import { commands, demo, notes, ownTable } from './presets.js'
import { SQLBox } from './sql.js'
import { Stream } from './stream.js'
import { millis, View } from './view.js'

const $ = (id) => document.getElementById(id)
const number = (n) => n.toLocaleString('en')
const asked = new URLSearchParams(location.search)
// How long a cut lasts; a test has no 5 s to spare.
const seconds = Math.min(Math.max(Number(asked.get('cut')) || 5, 0.1), 60)
const history = 40 // events from before the page that are shown at its start

const opened = clock.now()
const ledger = new Ledger()
const cache = new Cache()
const figures = new Figures()
const plot = new Plot($('plot'), clock.now)
const view = new View({ list: $('rows'), newer: $('newer'), empty: $('empty') })

const wire = `${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/ws`
let state = { kind: 'connecting' }
let liveSince = Infinity // by the event's clock: what is older was resumed, not pushed

const stream = new Stream(wire, '**', {
  state(next) {
    const was = state.kind
    state = next
    showState()
    if (next.kind === 'live') {
      liveSince = clock.now()
      plot.mended()
      people.connected()
    } else if (was === 'live') {
      plot.cut()
      people.lost()
      cursors.clear()
      view.note(next.kind === 'cut' ? 'the wire was cut here' : 'the connection was lost here', 'cut')
      if (next.kind !== 'cut') say(next.text)
    }
  },
  subscribed(place) {
    if (ledger.events > 0 && place === ledger.position) view.note(`resumed from position ${number(place)}`, 'resumed')
    if (ledger.position === 0) ledger.start(place)
    showPosition(place)
  },
  gap({ after, tail }) {
    ledger.gap(tail)
    view.note(`events between position ${number(after)} and ${number(tail)} have been trimmed by retention`, 'gap')
  },
  reset(place) {
    ledger.reset(place)
    cache.clear()
    view.note('reset: the history seen so far no longer exists in this database', 'gap')
    showPosition(place)
  },
  events(list) {
    const now = clock.now()
    const items = []
    for (const event of list) {
      const fate = ledger.take(event)
      if (fate === 'hole') view.note(`an event is missing before position ${event.position}`, 'gap')
      items.push(itemOf(event, now))
    }
    view.add(items)
    cutter.arrived()
    dirty = true
  },
  other(frame) {
    people.read(frame)
    cursors.read(frame)
    health.read(frame)
  },
})

// The others on this page. They are told of by the same connection, but are no part of the
// log: what was missed of them is not made up for.
const send = (frame) => stream.send(frame)
const people = new People({ button: $('people'), list: $('who-list') }, { send, say, joined: () => cursors.start() })
const cursors = new Cursors({ area: $('stream'), layer: $('cursors') }, { send, ready: () => people.joined })
const health = new Health($('degraded'), say)

function itemOf(event, now) {
  const at = clock.written(event.id)
  const { row, before, changed } = cache.take(event)
  const earlier = at === undefined || at < opened
  const late = !earlier && at < liveSince
  // Two clocks on one machine may still disagree by a tick.
  const latency = earlier ? undefined : Math.max(now - at, 0.1)
  if (!earlier) {
    plot.add(at, latency, late)
    figures.add(now, latency, late)
  }
  return { event, row, before, changed, keys: cache.keys(event.topic), latency, late }
}

const cutter = new Cutter(stream, ledger, {
  tick({ left, written }) {
    const rest = (left / 1000).toFixed(1)
    $('cut-text').textContent = `Cut · ${rest} s`
    showCut('cut', 'Your wire is cut.', written === 1 ? '1 event written by others so far' : `${number(written)} events written by others so far`)
  },
  reconnecting() {
    $('cut-text').textContent = 'Reconnecting…'
  },
  done(result) {
    const [line, rest, good] = verdict(result)
    $('cut').disabled = false
    $('cut-text').textContent = cutLabel
    showCut(good ? 'good' : 'bad', line, rest)
    $('cut-result').setAttribute('aria-live', 'polite')
  },
})

const cutLabel = `Cut my wire for ${seconds} s`
$('cut-text').textContent = cutLabel
$('cut').addEventListener('click', () => {
  $('cut').disabled = true
  // A countdown read out ten times a second would be unbearable; the result is read.
  $('cut-result').setAttribute('aria-live', 'off')
  say('The wire is cut.')
  cutter.cut(seconds)
})

function showCut(kind, line, rest) {
  const box = $('cut-result')
  box.hidden = false
  box.dataset.kind = kind
  if (!box.firstChild) box.append(document.createElement('strong'), document.createElement('span'))
  if (box.firstChild.textContent !== line) box.firstChild.textContent = line
  if (box.lastChild.textContent !== rest) box.lastChild.textContent = rest
}

function say(text) {
  $('said').textContent = text
}

function showState() {
  let text = state.text
  if (state.until) text += ` Trying again in ${Math.max(Math.ceil((state.until - performance.now()) / 1000), 1)} s.`
  $('state').dataset.kind = state.kind
  if ($('state-text').textContent !== text) $('state-text').textContent = text
}

function showPosition(position) {
  $('position').textContent = number(position)
}

let dirty = true
function showFigures() {
  const { p50, p99, rate } = figures.read(clock.now())
  for (const [id, ms] of [['p50', p50], ['p99', p99]]) {
    const [n, unit] = ms === undefined ? ['–', ''] : millis(ms)
    const small = document.createElement('small')
    small.textContent = unit
    $(id).replaceChildren(n, small)
  }
  $('rate').textContent = rate >= 10 ? String(Math.round(rate)) : rate.toFixed(1)
  if (state.until) showState()
}

// showCounts is cheap and runs with the frames, so that a burst is seen counting.
function showCounts() {
  requestAnimationFrame(showCounts)
  if (!dirty) return
  dirty = false
  showPosition(ledger.position)
  for (const id of ['missed', 'doubled']) {
    $(id).textContent = number(ledger[id])
    $(id).classList.toggle('bad', ledger[id] > 0)
  }
  $('received').textContent = number(ledger.events)
}

// Tabs. On a wide page the stream has no tab: it is always there.
const tabs = [...document.querySelectorAll('[role=tab]')]
const wide = matchMedia('(min-width: 900px)')

function openTab(name, focus) {
  if (wide.matches && name === 'stream') name = 'sql'
  document.body.dataset.tab = name
  for (const tab of tabs) {
    const on = tab.id === `tab-${name}`
    tab.setAttribute('aria-selected', String(on))
    tab.tabIndex = on ? 0 : -1
    if (on && focus) tab.focus()
  }
}

for (const tab of tabs) {
  tab.addEventListener('click', () => openTab(tab.id.slice(4)))
  tab.addEventListener('keydown', (e) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[e.key]
    if (!step) return
    const shown = tabs.filter((t) => t.offsetParent !== null)
    openTab(shown[(shown.indexOf(tab) + step + shown.length) % shown.length].id.slice(4), true)
  })
}
wide.addEventListener('change', () => openTab(document.body.dataset.tab))
openTab(asked.get('tab') ?? 'stream')

// Theme: as the system, light, dark.
function theme(next) {
  const root = document.documentElement
  if (next === 'auto') delete root.dataset.theme
  else root.dataset.theme = next
  const label = `Theme: ${next === 'auto' ? 'as the system' : next}`
  $('theme').title = label
  $('theme').setAttribute('aria-label', label)
  plot.recolour()
  try {
    localStorage.setItem('pgcast-theme', next)
  } catch {
    // It holds until the page is left.
  }
}
theme(document.documentElement.dataset.theme ?? 'auto')
$('theme').addEventListener('click', () => {
  const now = document.documentElement.dataset.theme ?? 'auto'
  theme({ auto: 'light', light: 'dark', dark: 'auto' }[now])
})
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => plot.recolour())

$('filter').addEventListener('input', (e) => view.filter(e.target.value))
$('clear').addEventListener('click', () => view.clear())
$('pause').addEventListener('click', () => {
  const on = $('pause').getAttribute('aria-pressed') !== 'true'
  $('pause').setAttribute('aria-pressed', String(on))
  $('pause').textContent = on ? 'Go on' : 'Pause'
  view.pause(on)
})
addEventListener('online', () => stream.hurry())

async function info() {
  try {
    return await (await fetch('/dev/info')).json()
  } catch {
    return { version: '', demo: false, topic: 'notes', command: 'pgcast' } // the state says that the server is gone
  }
}

async function start() {
  if (/Mac|iPhone|iPad/.test(navigator.platform)) $('run-key').textContent = '⌘↵'
  setInterval(showFigures, 500)
  showCounts()
  showState()
  const about = await info()
  $('version').textContent = about.version
  $('postgres').textContent = about.postgres ?? '–'
  for (const name of ['metrics', 'console']) {
    if (!about[name]) continue
    $(name).href = about[name]
    $(`${name}-item`).hidden = false
  }
  new SQLBox({
    text: $('sql-text'), colours: $('sql-colours'), result: $('result'), run: $('run'),
    presets: $('presets'), list: about.demo ? demo : notes, say,
  })
  shellTab($('commands'), commands(about))
  shellTab($('own'), ownTable(about))
  codeTab({ source: $('example'), run: $('run-example'), copy: $('copy-example'), place: $('example-place') })
  people.topic = cursors.topic = about.topic
  try {
    const sent = clock.now()
    const { position, clock: theirs } = await head(AbortSignal.timeout(5000))
    clock.compare(theirs / 1000, sent, clock.now())
    stream.start(Math.max(position - history, 0))
  } catch {
    stream.start() // it says itself what is wrong
  }
}

start()
