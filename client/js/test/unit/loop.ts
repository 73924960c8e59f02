import type { EventItem, Item, Json, Place, Status, Topic } from '../../src/types.js';

/**
 * The part of a Topic that a live table uses, fed by hand: for tests of what is pure logic in it,
 * in any order of items. What a server really sends is tested with a server.
 */
export class Loop {
  readonly name = 'loop';
  readonly options = { snapshot: true };
  place: Place | undefined;
  refreshed = 0;

  private readonly handlers = new Set<{ name: string; handler: (item: any) => void }>();
  private state: Status = { state: 'online', degraded: [] };
  private readonly watchers = new Set<(status: Status) => void>();

  readonly status = {
    get: (): Status => this.state,
    subscribe: (run: (status: Status) => void): (() => void) => {
      this.watchers.add(run);
      run(this.state);
      return () => void this.watchers.delete(run);
    },
  };

  static make(): { loop: Loop; topic: Topic<any> } {
    const loop = new Loop();
    return { loop, topic: loop as unknown as Topic<any> };
  }

  get listening(): number {
    return this.handlers.size;
  }

  on(name: string, handler: (item: any) => void): () => void {
    const entry = { name, handler };
    this.handlers.add(entry);
    return () => void this.handlers.delete(entry);
  }

  refresh(): void {
    this.refreshed++;
    this.place = undefined;
  }

  online(online: boolean): void {
    this.state = { state: online ? 'online' : 'connecting', degraded: [] };
    for (const run of [...this.watchers]) run(this.state);
  }

  item(item: Item): void {
    for (const { name, handler } of [...this.handlers]) if (name === item.type || name === (item as EventItem).event) handler(item);
  }

  subscribed(resumed = false): void {
    this.item({ type: 'subscribed', topic: this.name, seq: this.place?.after ?? 0, resumed });
  }

  event(event: string, data: unknown, more: Partial<EventItem> = {}): void {
    const seq = (this.place?.after ?? 0) + 1;
    const id = more.id ?? `e${seq}`;
    this.place = { ...this.place, after: seq, id };
    const item: Record<string, unknown> = { type: 'event', topic: this.name, event, data, seq, id, place: this.place, ...more };
    if (item.oversize) delete item.data;
    this.item(item as unknown as Item);
  }

  /** A whole snapshot of a table, in one part or in one for each row. */
  snapshot(rows: unknown[], { parts = false, seq = 0, oversize = [] as Json[] } = {}): void {
    const chunks = parts && rows.length ? rows.map((row) => [row]) : [rows];
    chunks.forEach((chunk, i) => this.part({ rows: chunk as Json[], oversize, first: i === 0, last: i === chunks.length - 1 }, seq));
  }

  part(part: { rows?: Json[]; events?: EventItem[]; oversize?: Json[]; first: boolean; last: boolean; table?: string }, seq = 0, asOf: string | undefined = 'a'): void {
    const place: Place = { after: seq, ...(asOf !== undefined && { asOf }) };
    if (part.last) this.place = place;
    this.item({
      type: 'snapshot',
      topic: this.name,
      rows: [],
      events: [],
      oversize: [],
      ...part,
      ...(part.last && { place }),
    });
  }
}

/** A generator of numbers from 0 to 1, the same for the same seed. */
export function random(seed: number): () => number {
  let a = seed >>> 0;
  return () => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = Math.imul(a ^ (a >>> 15), a | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}
