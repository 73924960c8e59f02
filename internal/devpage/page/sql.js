// The SQL box: an editor with colours, and the answer in words.

import { paint } from './highlight.js'
import { millis } from './view.js'

export class SQLBox {
  #text
  #colours
  #result
  #run
  #say
  #busy = null // aborts the statement that runs

  // say tells those who do not see the page.
  constructor({ text, colours, result, run, presets, list, say }) {
    this.#text = text
    this.#colours = colours
    this.#result = result
    this.#run = run
    this.#say = say
    text.addEventListener('input', () => this.#paint())
    text.addEventListener('scroll', () => { colours.scrollTop = text.scrollTop; colours.scrollLeft = text.scrollLeft }, { passive: true })
    text.addEventListener('keydown', (e) => {
      if (e.key !== 'Enter' || !(e.ctrlKey || e.metaKey)) return
      e.preventDefault()
      this.run()
    })
    run.addEventListener('click', () => (this.#busy ? this.#busy.abort() : this.run()))
    for (const preset of list) {
      const button = make('button', '', preset.name)
      button.type = 'button'
      button.addEventListener('click', () => {
        for (const other of presets.children) other.removeAttribute('aria-current')
        button.setAttribute('aria-current', 'true')
        this.set(preset.sql)
      })
      presets.append(button)
    }
    presets.firstElementChild.click()
  }

  set(sql) {
    this.#text.value = sql
    this.#text.scrollTop = 0
    this.#paint()
  }

  async run() {
    if (this.#busy) return
    this.#busy = new AbortController()
    this.#run.firstChild.data = 'Stop '
    const slow = setTimeout(() => this.#show([make('p', 'note', 'Running…')]), 300)
    try {
      const answer = await fetch('/dev/sql', {
        method: 'POST',
        headers: { 'Content-Type': 'application/json' },
        body: JSON.stringify({ sql: this.#text.value }),
        signal: this.#busy.signal,
      })
      const body = await answer.json()
      clearTimeout(slow)
      this.#answer(body)
    } catch (err) {
      clearTimeout(slow)
      this.#failed(err)
    }
    this.#busy = null
    this.#run.firstChild.data = 'Run '
  }

  #failed(err) {
    const stopped = err.name === 'AbortError'
    this.#show([problem(stopped
      ? { message: 'Stopped. What was not committed yet is rolled back.' }
      : { message: 'The server did not answer.', hint: 'Is pgcast dev still running? The statement may or may not have been run.' })])
  }

  #answer(body) {
    const parts = []
    if (body.tags) parts.push(this.#summary(body))
    if (!body.error) this.#say(`Done: ${body.tags.join(', ')}`)
    for (const notice of body.notices ?? []) parts.push(make('p', 'notice', notice))
    if (body.error) {
      parts.push(problem(body.error, this.#text.value))
      this.#point(body.error.position)
      const kept = body.tags?.includes('COMMIT')
      if (body.tags?.length && !kept) parts.push(make('p', 'note', 'Nothing of it was kept: statements that are run together are one transaction.'))
    }
    if (body.open) parts.push(make('p', 'notice', 'The transaction was left open, so it was rolled back: each run is a session of its own. Add commit;'))
    if (body.tags?.at(-1) === 'ROLLBACK') parts.push(make('p', 'notice', 'Rolled back: nothing was committed, so nothing arrives.'))
    if (body.columns && !body.error) parts.push(table(body))
    if (body.cut) parts.push(make('p', 'note', 'Not all of it is shown: at most 1,000 rows, and 4 KiB of a value.'))
    this.#show(parts)
  }

  #summary({ tags, ms, error }) {
    const line = make('p', 'tags')
    const shown = tags.length > 8 ? [...tags.slice(0, 7), `and ${tags.length - 7} more`] : tags
    for (const tag of shown) line.append(make('span', 'tag', tag || 'empty'))
    if (!tags.length && !error) line.append(make('span', 'tag', 'nothing to run'))
    line.append(make('span', 'took', millis(ms).join(' ')))
    return line
  }

  // point puts the caret where Postgres says the error is. It counts characters, and
  // JavaScript UTF-16 units.
  #point(position) {
    if (!position) return
    const at = [...this.#text.value].slice(0, position - 1).join('').length
    const end = at + (/^["\w]+/.exec(this.#text.value.slice(at))?.[0].length ?? 1)
    this.#text.setSelectionRange(at, end)
  }

  #paint() {
    // A last empty line would have no height in the coloured copy.
    paint(this.#colours, this.#text.value + '\n', 'sql')
  }

  #show(parts) {
    this.#result.replaceChildren(...parts)
    this.#result.scrollTop = 0
  }
}

function make(tag, name, text) {
  const el = document.createElement(tag)
  if (name) el.className = name
  if (text !== undefined) el.textContent = text
  return el
}

// problem shows an error, with the line it is in.
function problem({ message, detail, hint, where, code, position }, text) {
  const el = make('div', 'problem')
  el.setAttribute('role', 'alert')
  const head = make('p', 'message', message)
  if (code) head.append(make('code', '', code))
  el.append(head)
  if (position && text) {
    const before = [...text].slice(0, position - 1).join('')
    const start = before.lastIndexOf('\n') + 1
    const number = before.split('\n').length
    const line = text.slice(start).split('\n', 1)[0]
    const label = `${number} │ `
    el.append(make('pre', '', `${label}${line}\n${' '.repeat(label.length + before.length - start)}^`))
  }
  if (detail) el.append(make('p', '', detail))
  if (hint) el.append(make('p', 'hint', hint))
  if (where) el.append(make('p', 'hint', where))
  return el
}

function table({ columns, rows }) {
  const box = make('div', 'table')
  box.tabIndex = 0
  box.setAttribute('role', 'region')
  box.setAttribute('aria-label', 'Rows of the last statement')
  const t = make('table')
  const head = t.createTHead().insertRow()
  for (const c of columns) head.append(make('th', c.number ? 'number' : '', c.name))
  const body = t.createTBody()
  for (const row of rows ?? []) {
    const tr = body.insertRow()
    row.forEach((v, i) => {
      const td = tr.insertCell()
      if (v === null) td.append(make('i', '', 'null'))
      else td.textContent = v
      if (columns[i].number) td.className = 'number'
      td.title = v ?? ''
    })
  }
  if (!rows?.length) {
    const td = body.insertRow().insertCell()
    td.colSpan = columns.length
    td.append(make('i', '', 'no rows'))
  }
  box.append(t)
  return box
}
