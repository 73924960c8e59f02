// The cache keeps the last known image of the rows that have passed, so that an update,
// whose event carries the new row and the old key, can show what has changed.

const maxRows = 5000 // of all topics

export class Cache {
  #rows = new Map() // topic and key to the row, in order of use
  #keys = new Map() // topic to the names of its key columns, once an event has told

  // take learns from an event and tells about it: {row, before, changed}. row is what to
  // show, before the image it replaces, as far as known, and changed the names of the
  // columns whose values differ; null where nothing is known to compare with.
  take(event) {
    const { topic, event: name, old } = event
    const data = plain(event.data) ? event.data : null
    if (name === 'truncated') {
      for (const key of this.#rows.keys()) if (key.startsWith(topic + '\n')) this.#rows.delete(key)
      return { row: null, before: null, changed: null }
    }
    if (!data || (old !== undefined && !plain(old))) return { row: null, before: null, changed: null }
    if (old) this.#learn(topic, old, data, name)
    if (name === 'deleted') {
      const before = this.#drop(topic, old ?? data)
      return { row: { ...before, ...data }, before, changed: null }
    }
    const known = name === 'updated' ? this.#drop(topic, old ?? data) : null
    this.#put(topic, data)
    if (name !== 'updated') return { row: data, before: null, changed: null }
    const before = known || old ? { ...known, ...old } : null
    const changed = before && new Set(Object.keys(data).filter((c) => c in before && !same(before[c], data[c])))
    // Only the key to compare with: what else has changed cannot be told.
    return { row: data, before, changed: known || changed?.size ? changed : null }
  }

  // keys gives the names of the columns that name a row of the topic.
  keys(topic) {
    return this.#keys.get(topic) ?? ['id']
  }

  clear() {
    this.#rows.clear()
  }

  #learn(topic, old, data, name) {
    const names = Object.keys(old)
    // With all old values captured, old is a whole row and tells nothing about the key.
    if (name === 'updated' && names.length < Object.keys(data).length) this.#keys.set(topic, names)
  }

  #name(topic, row) {
    return topic + '\n' + JSON.stringify(this.keys(topic).map((c) => row[c]))
  }

  #put(topic, row) {
    const key = this.#name(topic, row)
    this.#rows.delete(key)
    this.#rows.set(key, row)
    if (this.#rows.size > maxRows) this.#rows.delete(this.#rows.keys().next().value)
  }

  #drop(topic, row) {
    const key = this.#name(topic, row)
    const known = this.#rows.get(key) ?? null
    this.#rows.delete(key)
    return known
  }
}

export function plain(v) {
  return v !== null && typeof v === 'object' && !Array.isArray(v)
}

function same(a, b) {
  return a === b || JSON.stringify(a) === JSON.stringify(b)
}
