// The Code and Shell tabs: text to take away, and the example to run.

import { paint } from './highlight.js'

export async function codeTab({ source, run, copy, place }) {
  const url = '/dev/example.html'
  let text
  try {
    const answer = await fetch(url)
    if (!answer.ok) throw new Error(String(answer.status))
    text = (await answer.text()).trimEnd()
  } catch {
    source.textContent = 'The server did not answer; load the page again.'
    return
  }
  paint(source, text, 'web')
  copy.addEventListener('click', () => copyText(copy, text))
  run.addEventListener('click', () => {
    const old = place.querySelector('iframe')
    if (old) {
      old.remove()
      run.textContent = 'Run it here'
      return
    }
    const frame = document.createElement('iframe')
    frame.title = 'The example, running'
    // Not sandboxed: the document is this server's own, under a policy that lets it do
    // nothing but this, and in a sandbox its Origin would be null, which /ws refuses.
    frame.src = url
    place.append(frame)
    run.textContent = 'Stop it'
  })
}

export function shellTab(list, commands) {
  for (const [command, why] of commands) {
    const item = document.createElement('li')
    const line = document.createElement('div')
    const code = document.createElement('code')
    code.textContent = command
    const copy = document.createElement('button')
    copy.type = 'button'
    copy.textContent = 'Copy'
    copy.setAttribute('aria-label', `Copy: ${command}`)
    copy.addEventListener('click', () => copyText(copy, command))
    line.append(code, copy)
    const note = document.createElement('p')
    note.className = 'note'
    note.textContent = why
    item.append(line, note)
    list.append(item)
  }
}

async function copyText(button, text) {
  const was = button.textContent
  try {
    await navigator.clipboard.writeText(text)
    button.textContent = 'Copied'
  } catch {
    button.textContent = 'Not allowed here'
  }
  setTimeout(() => { button.textContent = was }, 1500)
}
