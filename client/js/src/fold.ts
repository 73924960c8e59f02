import type { EventItem, EventMap, Place, SnapshotItem } from './types.js';

/** What a row is found by. A key of several members is their values as a JSON array. */
export type Key = string | number;

/** Gives what an object is found by; undefined if it does not have that. */
export type KeyFunction = (of: unknown) => Key | undefined;

/** The key of one member, of several, or of a function, which also gets an old key (part of a row) to find the row by. */
export function keyFunction(key: string | readonly string[] | ((row: any) => Key | undefined)): KeyFunction {
  if (typeof key === 'string') return (of) => usable((of as Record<string, unknown> | null)?.[key]);
  if (typeof key === 'function') {
    return (of) => {
      try {
        return of == null ? undefined : usable(key(of));
      } catch {
        return undefined; // it looked for something that this part of a row does not have
      }
    };
  }
  return (of) => {
    const values = key.map((member) => (of as Record<string, unknown> | null)?.[member]);
    return values.includes(undefined) ? undefined : JSON.stringify(values);
  };
}

function usable(key: unknown): Key | undefined {
  return typeof key === 'string' || typeof key === 'number' ? key : undefined;
}

interface Content {
  rows: Map<Key, unknown>;
  oversize: Map<Key, object>;
}

/** What a snapshot that is under way has brought so far. */
interface Growing extends Content {
  tables: Set<string>;
}

const empty = (): Content => ({ rows: new Map(), oversize: new Map() });

/**
 * Fold makes rows of a snapshot and the events behind it: docs/snapshots.md. It knows nothing of
 * connections, time and local writes.
 *
 * A topic of attached tables is told from one that is only published to by its snapshot's asOf.
 * Of the former only what captures writes is folded, of the latter every event is the newest of
 * its key.
 */
export class Fold {
  content = empty();
  /** There has been a whole snapshot, */
  complete = false;
  /** and neither a gap nor a reset since. */
  current = false;
  error: Error | undefined;

  private growing: Growing | undefined;
  private ofTables = true;
  private tables = 0;

  constructor(
    private readonly topic: string,
    readonly keyOf: KeyFunction,
    /**
     * Is told what became of a row: undefined if it is gone. That a new snapshot has it, or has it no more, is
     * told with snapshot; of a row that is in both nothing is told.
     */
    private readonly became: (key: Key, row: unknown, snapshot?: boolean) => void,
  ) {}

  /** Takes a part of a snapshot, and says whether its beginning was missed. */
  snapshot(part: SnapshotItem): boolean {
    if (part.first) this.growing = { ...empty(), tables: new Set() };
    const growing = this.growing;
    if (!growing) return true;
    if (part.table !== undefined) growing.tables.add(part.table);
    for (const row of part.rows) {
      const key = this.key(row);
      if (key !== undefined) growing.rows.set(key, row);
    }
    for (const event of part.events) this.publishedTo(growing, event);
    for (const key of part.oversize) growing.oversize.set(this.keyOf(key) ?? `oversize ${growing.oversize.size}`, (key ?? {}) as object);
    if (part.last) this.swap(growing, part.place);
    return false;
  }

  /** Rows of before stay where they are in the order, so that nothing jumps. */
  private swap(growing: Growing, place: Place | undefined): void {
    const { rows, oversize, tables } = growing;
    const old = this.content.rows;
    const ordered = new Map<Key, unknown>();
    for (const key of old.keys()) if (rows.has(key)) ordered.set(key, rows.get(key));
    for (const [key, row] of rows) ordered.set(key, row);
    this.content = { rows: ordered, oversize };
    this.growing = undefined;
    this.complete = this.current = true;
    this.ofTables = place?.asOf !== undefined;
    this.tables = tables.size;
    for (const key of old.keys()) if (!ordered.has(key)) this.became(key, undefined, true);
    for (const [key, row] of ordered) if (!old.has(key)) this.became(key, row, true);
  }

  /** What is held is not the truth any more; it is kept to be shown until the new snapshot is complete. */
  lost(): void {
    this.current = false;
    this.growing = undefined;
  }

  /** Takes an event, and says whether only a new snapshot can tell what it did. */
  event(event: EventItem): boolean {
    if (!this.complete) return false; // its snapshot is still to come
    return this.ofTables ? this.captured(event) : this.published(event);
  }

  private captured(event: EventItem): boolean {
    switch (event.event) {
      case 'created':
      case 'updated':
      case 'entered':
        if (event.oversize) return true; // nobody can tell which row it is
        if (event.old) {
          const before = this.key(event.old);
          if (before !== undefined && before !== this.keyOf(event.data)) this.remove(before);
        }
        this.set(event.data);
        return false;
      case 'deleted':
        if (event.oversize) return true;
        this.remove(this.key(event.old ?? event.data));
        return false;
      case 'gone':
        // Without old a table was dropped; with an empty one it stands for something published.
        if (!event.old) return this.clear();
        if (Object.keys(event.old).length) this.remove(this.key(event.old));
        return false;
      case 'truncated':
        return this.clear();
      case 'altered':
      case 'degraded':
      case 'recovered':
        return true; // rows have changed, or may have, without an event
    }
    return false; // published to the topic by hand: no row
  }

  private published(event: EventItem): boolean {
    const { rows } = this.content;
    if (event.event === 'truncated' || (event.event === 'gone' && !event.old)) return this.clear();
    if (event.event === 'deleted' || event.event === 'gone') this.remove(this.keyOf(event.data ?? event.old));
    else {
      const key = this.publishedTo(this.content, event);
      if (key !== undefined) this.became(key, rows.get(key));
    }
    return false;
  }

  /** An event without a key counts by itself: its id is its key. Of one without data nobody knows the key. */
  private publishedTo(content: Content, event: EventItem<EventMap>): Key | undefined {
    if (event.oversize) {
      content.oversize.set(event.id, { id: event.id, seq: event.seq });
      return undefined;
    }
    const key = this.keyOf(event.data) ?? event.id;
    content.rows.set(key, event.data);
    return key;
  }

  private set(row: unknown): void {
    const key = this.key(row);
    if (key === undefined) return;
    this.content.rows.set(key, row);
    this.content.oversize.delete(key);
    this.became(key, row);
  }

  private remove(key: Key | undefined): void {
    if (key === undefined) return;
    this.content.rows.delete(key);
    this.content.oversize.delete(key);
    this.became(key, undefined);
  }

  /** Events do not say whose rows they are: where there are several tables, the others' have to be read again. */
  private clear(): boolean {
    const { rows } = this.content;
    this.content = empty();
    for (const key of rows.keys()) this.became(key, undefined);
    return this.tables > 1;
  }

  /** The key of what has to have one. */
  private key(of: unknown): Key | undefined {
    const key = this.keyOf(of);
    if (key === undefined) {
      this.error ??= new TypeError(
        `rows of ${this.topic}: ${JSON.stringify(of)?.slice(0, 100)} does not have what rows are to be found by: ` +
          'say with key which members the table has as its key, or attach the table with old => true',
      );
    }
    return key;
  }
}
