// What an app was handed, and whether that is what Postgres says happened.
import type { EventItem, Item } from '../../src/types.js';
import { sql } from './shared.js';

/** What went wrong, in numbers; all are to be 0 but events. */
export interface Figures {
  /** How many events the app was to be handed. */
  events: number;
  lost: number;
  doubled: number;
  reordered: number;
  /** Other than Postgres has them, or never there at all. */
  wrong: number;
}

export const none = (): Figures => ({ events: 0, lost: 0, doubled: 0, reordered: 0, wrong: 0 });

export function add(to: Figures, more: Figures): void {
  for (const name of Object.keys(to) as (keyof Figures)[]) to[name] += more[name];
}

/** The figures without the count of events, for comparing with nothing. */
export function faults({ events: _, ...rest }: Figures): Omit<Figures, 'events'> {
  return rest;
}

export const flawless = { lost: 0, doubled: 0, reordered: 0, wrong: 0 };

/** Remembers the events that handlers and iterations are given, by topic. */
export class Witness {
  readonly heard = new Map<string, EventItem[]>();

  readonly hear = (item: Item): void => {
    if (item.type !== 'event') return;
    const list = this.heard.get(item.topic);
    if (list) list.push(item);
    else this.heard.set(item.topic, [item]);
  };

  /** The newest seq of a topic; 0 before the first event. */
  seq(topic: string): number {
    return this.heard.get(topic)?.at(-1)?.seq ?? 0;
  }

  /** Compares what it heard of a topic after a seq with the log. */
  async compare(topic: string, after = 0): Promise<Figures> {
    const rows = await sql<{ seq: number; event: string; data: unknown }>(
      'select seq, event, data from pgcast.history where topic = $1 and seq > $2 order by seq',
      [topic, after],
    );
    const log = new Map(rows.map((row) => [row.seq, row]));
    const figures = { ...none(), events: rows.length };
    const seen = new Set<number>();
    let newest = after;
    for (const event of this.heard.get(topic) ?? []) {
      const row = log.get(event.seq);
      if (!row || row.event !== event.event || !same(row.data, event.data) || event.place === undefined) figures.wrong++;
      if (seen.has(event.seq)) figures.doubled++;
      else if (event.seq < newest) figures.reordered++;
      newest = Math.max(newest, event.seq);
      seen.add(event.seq);
    }
    const lost = rows.flatMap(({ seq }) => (seen.has(seq) ? [] : [seq]));
    figures.lost = lost.length;
    if (lost.length) console.error(`${topic}: of ${rows.length}, these never came: ${lost.slice(0, 50).join()}`);
    return figures;
  }
}

/** Whether two values are the same JSON, whatever the order of members. */
export function same(a: unknown, b: unknown): boolean {
  return JSON.stringify(sorted(a)) === JSON.stringify(sorted(b));
}

function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (value === null || typeof value !== 'object') return value;
  return Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)).map(([k, v]) => [k, sorted(v)]));
}

/** A row that counts its own changes. */
export interface Versioned {
  id: number;
  v: number;
}

/**
 * Folds a topic's snapshot and events into its table, and is strict: each row's v has to go up
 * by one with each change, so that an event too few or too many is seen at once.
 */
export class Table<Row extends Versioned> {
  readonly rows = new Map<number, Row>();
  lost = 0;
  doubled = 0;
  /** Snapshots that came to their end. */
  snapshots = 0;
  changes = 0;
  private seq = 0;
  reordered = 0;

  readonly take = (item: Item): void => {
    if (item.type === 'snapshot') {
      if (item.first) this.rows.clear();
      for (const row of item.rows as unknown as Row[]) {
        if (this.rows.has(row.id)) this.doubled++;
        this.rows.set(row.id, row);
      }
      if (item.last) {
        this.snapshots++;
        this.seq = item.place?.after ?? 0;
      }
    }
    if (item.type !== 'event') return;
    this.changes++;
    if (item.seq <= this.seq) this.reordered++;
    this.seq = item.seq;
    const row = item.data as Row;
    const had = this.rows.get(row.id)?.v ?? 0;
    const want = item.event === 'created' ? 0 : item.event === 'updated' ? row.v - 1 : row.v;
    // The old row of a deleted event is its key alone: its version is not told.
    if (item.event === 'deleted' ? had === 0 : had < want) this.lost++;
    else if (item.event !== 'deleted' && had > want) this.doubled++;
    if (item.event === 'deleted') this.rows.delete(row.id);
    else this.rows.set(row.id, row);
  };
}
