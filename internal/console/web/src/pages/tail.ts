import { signal } from '@preact/signals';
import type { DeniedItem, EventItem, GapItem, ResetItem, SubscribedItem, Topic } from 'pgcast';
import { brief, exact, writtenAt } from '../format.js';

export type Item = EventItem | GapItem | ResetItem | SubscribedItem | DeniedItem;

/** One line of the stream. */
export interface Entry {
  /** Its number on this page: lines have no other name. */
  n: number;
  item: Item;
  /** When it was written, or, of what was not, when it came: milliseconds. */
  at: number;
  /** The subscription began here; later ones resume it. */
  first?: true;
  /** What is drawn of it, once it was drawn. */
  words?: { data: string; time: string };
}

/** How many lines are held; what is older is there by time travel. */
export const held = 10_000;
/** How often the page is drawn at most while events come in, in milliseconds. */
const pace = 60;

let numbers = 0;

/** Makes a line of an item. */
export function entryOf(item: Item): Entry {
  return { n: numbers++, item, at: (item.type === 'event' ? writtenAt(item.id) : undefined) ?? Date.now() };
}

/** What is drawn of a line. It is made for lines that are seen, and once: they are drawn many times a second. */
export function wordsIn(entry: Entry): { data: string; time: string } {
  if (entry.words) return entry.words;
  const { item } = entry;
  let data = '';
  if (item.type === 'event') {
    data = item.oversize ? 'larger than the server’s limit' : brief(item.event === 'deleted' ? item.old ?? item.data : item.data);
  }
  return (entry.words = { data, time: exact(entry.at) });
}

/**
 * What a topic tells, as lines, the newest last. It tells of changes at a pace that eyes can
 * follow, however fast the events are.
 */
export class Tail {
  /** Changes when there is something new to draw. */
  readonly version = signal(0);
  /** Events since the page was opened. */
  readonly events = signal(0);
  /** The seq of the newest event, or where the subscription began. */
  readonly head = signal(0);
  /** Events of the last second, without those of before the page was opened. */
  readonly perSecond = signal(0);

  private lines: Entry[] = [];
  private shown: Entry[] | undefined;
  private begun = false;
  private came = 0;
  private last = 0;
  private waiting = false;
  private stops: (() => void)[] = [];
  private fresh = 0;

  /** opened is the head when the page was opened: what is not after it was read from the log. */
  constructor(private opened: number) {}

  /** Listens to a topic until close. */
  listen(topic: Topic): void {
    const take = (item: Item) => this.take(item);
    this.stops = [
      topic.on('event', take),
      topic.on('gap', take),
      topic.on('reset', take),
      topic.on('subscribed', take),
      topic.on('denied', take),
    ];
    const timer = setInterval(() => {
      this.perSecond.value = this.fresh;
      this.fresh = 0;
    }, 1000);
    this.stops.push(() => clearInterval(timer));
  }

  close(): void {
    for (const stop of this.stops) stop();
    this.stops = [];
  }

  /** The lines to be drawn: those of now, or those of when it was held. */
  view(): readonly Entry[] {
    return this.shown ?? this.lines;
  }

  get isHeld(): boolean {
    return this.shown !== undefined;
  }

  /** How many events have come since it was held. */
  get missed(): number {
    if (!this.shown) return 0;
    const last = this.shown.at(-1)?.n ?? -1;
    let events = 0;
    for (let i = this.lines.length - 1; i >= 0 && this.lines[i]!.n > last; i--) if (this.lines[i]!.item.type === 'event') events++;
    return events;
  }

  /** Whether more has come while it was held than is kept. */
  get overflowed(): boolean {
    return !!this.shown?.length && this.lines[0]!.n > this.shown.at(-1)!.n + 1;
  }

  /** Stops the picture; what comes is kept and counted. */
  hold(): void {
    this.shown ??= this.lines.slice();
    this.draw();
  }

  /** Shows everything that has come. */
  release(): void {
    this.shown = undefined;
    this.draw();
  }

  private take(item: Item): void {
    const entry = entryOf(item);
    if (item.type === 'subscribed' && !this.begun) this.begun = entry.first = true;
    this.lines.push(entry);
    if (this.lines.length > held + 1000) this.lines.splice(0, this.lines.length - held);
    if (item.type === 'event') {
      this.came++;
      if (item.seq > this.opened) this.fresh++;
      this.last = item.seq;
    } else if (item.type === 'subscribed') this.last = Math.max(this.last, item.seq);
    else if (item.type === 'reset') this.last = this.opened = item.head;
    if (this.waiting) return;
    this.waiting = true;
    setTimeout(() => requestAnimationFrame(() => this.draw()), this.came < 2 ? 0 : pace);
  }

  private draw(): void {
    this.waiting = false;
    this.events.value = this.came;
    this.head.value = this.last;
    this.version.value++;
  }
}

/** The newest event before this one, among the lines, that is of the same row by the columns of its key. */
export function earlierOf(lines: readonly Entry[], event: EventItem, key: readonly string[]): EventItem | undefined {
  const name = key.length ? keyOf(event.data, key) : undefined;
  if (!name) return undefined;
  for (let i = lines.length - 1; i >= 0; i--) {
    const item = lines[i]!.item;
    if (item.type === 'event' && item.seq < event.seq && item.topic === event.topic && keyOf(item.data, key) === name) return item;
  }
  return undefined;
}

/** A row's key as text; undefined where a column of it is missing. */
export function keyOf(data: unknown, key: readonly string[]): string | undefined {
  if (typeof data !== 'object' || data === null) return undefined;
  const values = key.map((column) => (data as Record<string, unknown>)[column]);
  return values.some((v) => v === undefined) ? undefined : JSON.stringify(values);
}
