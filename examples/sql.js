// pgcast dev runs SQL for pages of its own. In production this is a route of your backend, which knows who may write what.
export async function sql(text, ...args) {
  const headers = { 'Content-Type': 'application/json' }
  const answer = await fetch('/dev/sql', { method: 'POST', headers, body: JSON.stringify({ sql: text, args }) })
  const { error } = await answer.json()
  if (error) throw new Error(error.message)
}
