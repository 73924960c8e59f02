// Prints what the built modules weigh, and fails when the core is too heavy: index.js with what
// it imports statically, which is all that events over a WebSocket need. What it loads later, as it
// is needed, is listed behind it.
import { readFileSync, readdirSync } from 'node:fs';
import { gzipSync } from 'node:zlib';

const limit = 6144;
const dist = new URL('../dist/', import.meta.url);
const text = (name) => readFileSync(new URL(name, dist), 'utf8');
const weight = (name) => gzipSync(text(name), { level: 9 }).length;

/** A module with all that it imports statically. */
function closure(name, seen = new Set()) {
  if (seen.has(name)) return seen;
  seen.add(name);
  for (const [, other] of text(name).matchAll(/(?:from|import)\s*["'`]\.\/([^"'`]+)["'`]/g)) closure(other, seen);
  return seen;
}

const sum = (names) => [...names].reduce((bytes, name) => bytes + weight(name), 0);
const core = closure('index.js');
const line = (what, bytes, more = '') => console.log(`${what.padEnd(22)}${String(bytes).padStart(7)} bytes gzipped ${more}`);

line('core', sum(core), `of at most ${limit}: ${[...core].join(', ')}`);
for (const name of readdirSync(dist).filter((each) => each.endsWith('.js') && !core.has(each)).sort()) {
  const more = [...closure(name)].filter((each) => !core.has(each));
  line(`+ ${name}`, sum(more), more.length > 1 ? more.slice(1).join(', ') : '');
}
if (sum(core) > limit) {
  console.error(`The core is larger than ${limit} bytes.`);
  process.exit(1);
}
