import type { Key, KeyFunction } from './fold.js';

/** A local write to a live table. */
export type Change<Row> =
  /** The row as it will be, whether or not there is one of its key. */
  | { put: Row }
  /** A new row whose key the server will choose: until then it has one of its own, which no other row has. */
  | { add: Row }
  /** Some members of a row. The key says which row; it may be left out where patch has it. */
  | { patch: Partial<Row>; key?: Key | Partial<Row> }
  /** The row of that key, or the key's members, is no more. */
  | { remove: Key | Partial<Row> };

/** What send may answer: the id of the event that the write became, or the key of the row that it made. */
export type Answer = { id?: string; key?: Key } | null | undefined | void;

interface Write {
  /** When the answer came, or, if that was while nothing came from the server, when that ended; in milliseconds. */
  answered: number | undefined;
  id: string | undefined;
}

/** One change of a write, until it is seen in what the server sends. */
interface Entry {
  write: Write;
  kind: 'put' | 'add' | 'patch' | 'remove';
  key: Key;
  values: object;
  /** What the server has sent is this very change, as far as content can tell. */
  own: boolean;
  /** A snapshot said so: then the event may never come, and its id not be seen. */
  held: boolean;
  /** The row has changed since the write began. */
  touched: boolean;
  /** Of add: the rows that have changed since. */
  saw: Set<Key>;
}

/**
 * Writes are the changes made here that are not yet seen in the stream, in the order in which
 * they were made. They are laid over the rows of the server, so that taking one away undoes exactly
 * that one.
 *
 * One ends when its event is seen: known by its id where send gave that. Else by what the event
 * says (the first change that fits it), or, if the server has made something else of it, by the
 * row having changed at all between the write and its answer, or after its answer.
 */
export class Writes {
  private entries: Entry[] = [];
  /** Ids of events that came while some write was without an answer. */
  private ids = new Set<string>();
  private waiting = 0;

  constructor(private readonly keyOf: KeyFunction) {}

  /** When the first was answered of those that wait for their event. */
  get answered(): number | undefined {
    let first: number | undefined;
    for (const { write } of this.entries) if (write.answered !== undefined && !(write.answered >= first!)) first = write.answered;
    return first;
  }

  /** Nothing has come from the server until now: whatever waits for its event waits from now on. */
  restart(now: number): void {
    for (const { write } of this.entries) if (write.answered !== undefined) write.answered = now;
  }

  begin(changes: readonly Change<any>[]): Write {
    const write: Write = { answered: undefined, id: undefined };
    const entries = changes.map((change) => this.entry(change, write)); // throws before anything has changed
    this.entries.push(...entries);
    this.waiting++;
    return write;
  }

  private entry(change: Change<any>, write: Write): Entry {
    const entry = { write, own: false, held: false, touched: false, saw: new Set<Key>() };
    const key = (of: unknown): Key => {
      const found = typeof of === 'string' || typeof of === 'number' ? of : this.keyOf(of);
      if (found === undefined) throw new TypeError(`a local write has to say which row it is of: ${JSON.stringify(change)?.slice(0, 100)} has no key`);
      return found;
    };
    if ('put' in change) return { ...entry, kind: 'put', key: key(change.put), values: change.put };
    if ('add' in change) return { ...entry, kind: 'add', key: key(change.add), values: change.add };
    if ('patch' in change) return { ...entry, kind: 'patch', key: key(change.key ?? change.patch), values: change.patch };
    return { ...entry, kind: 'remove', key: key(change.remove), values: {} };
  }

  fail(write: Write): void {
    this.entries = this.entries.filter((entry) => entry.write !== write);
    this.settled();
  }

  answer(write: Write, answer: Answer, now: number): void {
    write.answered = now;
    const [entry, another] = this.entries.filter((entry) => entry.write === write);
    if (entry && !another && answer) {
      write.id = answer.id;
      // Id and key are certain, whatever the content seemed to say.
      if (answer.id !== undefined) entry.own = entry.held || this.ids.has(answer.id);
      else if (answer.key !== undefined && entry.kind === 'add') {
        entry.own = entry.saw.has(answer.key);
        entry.kind = 'put';
        entry.key = answer.key;
      }
    }
    this.settled();
    this.sweep();
  }

  private settled(): void {
    if (--this.waiting === 0) this.ids.clear();
  }

  /** A row has become another one, or (undefined) none: by an event, or because a snapshot says so. */
  became(key: Key, row: unknown, snapshot = false): void {
    if (!this.entries.length) return;
    const fitting = this.entries.find((entry) => !entry.own && (snapshot || entry.write.id === undefined) && this.fits(entry, key, row));
    if (fitting) {
      fitting.own = true;
      fitting.held = snapshot;
    }
    for (const entry of this.entries) {
      if (entry.kind === 'add' && entry.write.answered === undefined) entry.saw.add(key);
      if (!fitting && entry.key === key) entry.touched = true;
    }
    this.sweep();
  }

  /** An event of that id was folded. */
  event(id: string): void {
    if (this.waiting) this.ids.add(id);
    if (!this.entries.some((entry) => entry.write.id === id)) return;
    this.entries = this.entries.filter((entry) => entry.write.id !== id);
  }

  /** A snapshot holds these rows now. What was written before it may be in it, and then has no event. */
  snapshot(rows: ReadonlyMap<Key, unknown>): void {
    const done = new Set<Key>();
    for (const entry of this.entries) {
      if (!this.fits(entry, entry.key, rows.get(entry.key))) continue;
      entry.own = entry.held = true;
      if (entry.write.answered !== undefined) done.add(entry.key);
    }
    // Earlier writes to the same row are in what a later one made of it.
    this.entries = this.entries.filter((entry) => !(entry.write.answered !== undefined && done.has(entry.key)));
  }

  /** Those whose event should have come long ago have none: the server found nothing to change, or the row is not of this topic. */
  expire(before: number): void {
    this.entries = this.entries.filter(({ write }) => write.answered === undefined || write.answered > before);
  }

  private fits(entry: Entry, key: Key, row: unknown): boolean {
    if (entry.kind === 'add') return row !== undefined && key !== entry.key ? this.same(entry, row, true) : false;
    if (entry.key !== key) return false;
    if (entry.kind === 'remove') return row === undefined;
    return row !== undefined && this.same(entry, row, false);
  }

  /** The row has all the values of the change; but for the key, if the server chooses that. */
  private same(entry: Entry, row: unknown, otherKey: boolean): boolean {
    if (typeof row !== 'object' || row === null || typeof entry.values !== 'object') return row === entry.values;
    for (const [member, value] of Object.entries(entry.values)) {
      if (value === undefined || equal(value, (row as Record<string, unknown>)[member])) continue;
      if (otherKey && this.keyOf({ ...row, [member]: value }) !== this.keyOf(row)) continue;
      return false;
    }
    return true;
  }

  private sweep(): void {
    this.entries = this.entries.filter(({ write, own, touched }) => !(write.answered !== undefined && (own || (touched && write.id === undefined))));
  }

  /** The rows as they look with the writes, and the keys of those that wait. */
  over(rows: ReadonlyMap<Key, unknown>): { rows: ReadonlyMap<Key, unknown>; pending: ReadonlySet<Key> } {
    const pending = new Set<Key>();
    if (!this.entries.length) return { rows, pending };
    const seen = new Map(rows);
    for (const { kind, key, values, own } of this.entries) {
      if (own) continue; // it is in the server's rows
      if (kind === 'put' || kind === 'add') seen.set(key, values);
      else if (kind === 'remove') seen.delete(key);
      else if (seen.has(key)) {
        const row = { ...(seen.get(key) as object), ...values };
        const moved = this.keyOf(row) ?? key;
        if (moved !== key) seen.delete(key);
        seen.set(moved, row);
        pending.add(moved);
      }
      pending.add(key);
    }
    return { rows: seen, pending };
  }
}

function equal(a: unknown, b: unknown): boolean {
  return a === b || (typeof a === 'object' && a !== null && JSON.stringify(a) === JSON.stringify(b));
}
