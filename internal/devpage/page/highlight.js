// Colours for SQL, and for the HTML and JavaScript of the example: just enough to read by.

const sql = {
  comment: /--[^\n]*|\/\*[\s\S]*?\*\//,
  string: /(?:\bE)?'(?:[^']|'')*'?|\$(\w*)\$[\s\S]*?(?:\$\1\$|$)|"(?:[^"]|"")*"?/,
  number: /\b\d+(?:\.\d+)?\b/,
  word: new RegExp('\\b(?:select|insert|into|values|update|set|delete|from|where|and|or|not|null|is|in|as|on|using|returning|order|by|' +
    'limit|offset|group|having|join|left|right|inner|outer|cross|lateral|union|all|distinct|exists|case|when|then|else|end|begin|' +
    'commit|rollback|savepoint|create|alter|drop|table|index|view|schema|primary|key|references|unique|default|generated|always|' +
    'identity|if|cascade|truncate|with|recursive|interval|true|false|desc|asc|for|local|do|nothing|conflict|between|like|any|' +
    'explain|analyze|copy|merge|grant|revoke|call|language|function|returns|over|partition)\\b', 'i'),
}

const web = {
  comment: /<!--[\s\S]*?-->|(?<![:\w])\/\/[^\n]*/,
  string: /'(?:[^'\\\n]|\\.)*'|"[^"\n]*"|`(?:[^`\\]|\\.)*`/,
  word: /\b(?:let|const|function|return|if|else|new|undefined|for|of|async|await)\b/,
  tag: /<\/?[a-z][\w-]*|(?<=[\w"])>|<!doctype html>/,
  number: /\b\d+\b/,
}

// paint fills an element with the text, its tokens in spans named after their kind.
export function paint(el, text, language) {
  const rules = language === 'sql' ? sql : web
  const kinds = Object.keys(rules)
  const names = kinds.map((kind) => `(?<${kind}>${rules[kind].source.replaceAll('(\\w*)', '(?<quote>\\w*)').replaceAll('\\1', '\\k<quote>')})`)
  const part = document.createDocumentFragment()
  let from = 0
  for (const m of text.matchAll(new RegExp(names.join('|'), 'gi'))) {
    if (m.index > from) part.append(text.slice(from, m.index))
    const span = document.createElement('span')
    span.className = `t-${kinds.find((kind) => m.groups[kind] !== undefined)}`
    span.textContent = m[0]
    part.append(span)
    from = m.index + m[0].length
  }
  part.append(text.slice(from))
  el.replaceChildren(part)
}
