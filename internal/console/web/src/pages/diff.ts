/** One column of a row's change. */
export interface Change {
  column: string;
  kind: 'same' | 'changed' | 'added' | 'removed' | 'unknown';
  before?: unknown;
  after?: unknown;
}

export interface Diff {
  changes: Change[];
  /** Some old values are not known: the table is captured without them. */
  missing: boolean;
}

const isRow = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** Whether two values of JSON are the same. */
export function same(a: unknown, b: unknown): boolean {
  if (a === b) return true;
  if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null) return false;
  if (Array.isArray(a) !== Array.isArray(b)) return false;
  const left = Object.keys(a);
  const right = Object.keys(b);
  return (
    left.length === right.length &&
    left.every((name) => Object.hasOwn(b, name) && same((a as Record<string, unknown>)[name], (b as Record<string, unknown>)[name]))
  );
}

/**
 * What an event changed of a row, column by column, changed ones first. earlier is the row as an
 * earlier event had it, for columns whose old values were not captured. Undefined where the event
 * is of no row, or where nothing is known of what it was.
 */
export function diff(event: string, data: unknown, old: unknown, earlier?: unknown): Diff | undefined {
  const after = event === 'deleted' || event === 'gone' ? {} : isRow(data) ? data : undefined;
  if (!after || (!isRow(old) && !isRow(earlier) && event !== 'created')) return undefined;
  const before = { ...(isRow(earlier) ? earlier : {}), ...(isRow(old) ? old : {}) };
  const changes: Change[] = [];
  let missing = false;
  for (const column of new Set([...Object.keys(after), ...Object.keys(before)])) {
    const was = Object.hasOwn(before, column);
    const is = Object.hasOwn(after, column);
    let kind: Change['kind'];
    if (was && is) kind = same(before[column], after[column]) ? 'same' : 'changed';
    else if (was) kind = 'removed';
    else kind = event === 'created' || event === 'entered' ? 'added' : 'unknown';
    if (kind === 'unknown') missing = true;
    changes.push({ column, kind, before: before[column], after: after[column] });
  }
  const rank = { changed: 0, added: 1, removed: 1, unknown: 2, same: 3 };
  changes.sort((a, b) => rank[a.kind] - rank[b.kind]);
  return { changes, missing };
}
