import type { Frame, Link } from './link.js';
import type { Store } from './store.js';
import type { CursorOf, Json } from './types.js';

// Loaded when presence or cursors are used first: most topics have neither.

type User = Record<string, unknown>;
type Users = Store<ReadonlyMap<string, User>>;
type AllCursors = Store<ReadonlyMap<string, CursorOf>>;

/** The least time between two moves that are sent, in milliseconds. */
const moveEvery = 25;

export const presenceFrame = (topic: string, op: string, data?: Record<string, Json>): Frame => ({
  type: 'presence',
  topic,
  op,
  ...(data && { data }),
});
export const cursorFrame = (topic: string, data: Json): Frame => ({ type: 'cursor', topic, data });
export const cursorLeave = (topic: string): Frame => ({ type: 'cursor', topic, op: 'leave' });
export const cursorSnapshot = (topic: string): Frame => ({ type: 'cursor-snapshot', topic });

/** What a frame of a topic's presence makes of those who are here. */
export function users(before: ReadonlyMap<string, User>, event: string, data: unknown): ReadonlyMap<string, User> {
  if (event === 'denied') return new Map();
  if (event === 'presence_state') return new Map(Object.entries(data as Record<string, User>));
  if (event !== 'presence_diff') return before;
  const { joins, leaves } = data as Record<'joins' | 'leaves', Record<string, User> | undefined>;
  const after = new Map(before);
  for (const key of Object.keys(leaves ?? {})) after.delete(key);
  for (const [key, user] of Object.entries(joins ?? {})) after.set(key, user);
  return after;
}

/** What a frame of a topic's cursors makes of them. */
export function moved(before: ReadonlyMap<string, CursorOf>, event: string, data: unknown): ReadonlyMap<string, CursorOf> {
  if (event === 'denied') return new Map();
  const after = new Map(event === 'snapshot' ? [] : before);
  if (event === 'remove') after.delete((data as CursorOf).key);
  else for (const one of [data].flat() as CursorOf[]) after.set(one.key, one);
  return after;
}

/** Who is here on a topic. */
export class Here {
  #stop: (() => void) | undefined;
  #joined: Frame | undefined;
  #watched = false;

  constructor(
    readonly store: Users,
    readonly link: Link,
    readonly topic: string,
  ) {}

  watch(on: boolean): void {
    this.#watched = on;
    // Who is here is told of the others anyway.
    if (!this.#joined) this.#follow();
  }

  #follow(): void {
    this.#stop?.();
    this.#stop = undefined;
    if (this.#joined) this.#enter(this.#joined, 'leave');
    else if (this.#watched) this.#enter(presenceFrame(this.topic, 'sync'), 'unsync');
  }

  #enter(enter: Frame, exit: string): void {
    const { link, topic, store } = this;
    this.#stop = link.follow(`__presence:${topic}`, enter, presenceFrame(topic, exit), (event, data) =>
      store.set(users(store.get(), event, data)),
    );
  }

  async join(data?: Record<string, Json>): Promise<string> {
    const frame = presenceFrame(this.topic, 'join', data);
    JSON.stringify(frame); // throws over what no frame can carry, before anything is kept
    // Not by way of leaving: the others would see that.
    if (this.#joined) Object.assign(this.#joined, { data: undefined }, frame);
    else {
      this.#joined = frame;
      this.#follow();
    }
    const joined = this.#joined;
    try {
      const answer = await this.link.request(frame, { again: true });
      return (answer.data as { key: string }).key;
    } catch (error) {
      if (this.#joined === joined) this.leave();
      throw error;
    }
  }

  leave(): void {
    if (!this.#joined) return;
    this.#joined = undefined;
    this.#follow();
  }

  async count(): Promise<number> {
    const answer = await this.link.request(presenceFrame(this.topic, 'count'), { again: true });
    return (answer.data as { count: number }).count;
  }

  close(): void {
    this.#joined = undefined;
    this.#watched = false;
    this.#follow();
  }
}

/** The cursors of the others on a topic. */
export class Pointers {
  #next: { data: Json } | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #end: (() => void) | undefined;

  constructor(
    readonly store: AllCursors,
    readonly link: Link,
    readonly topic: string,
  ) {}

  watch(on: boolean): void {
    this.#end?.();
    this.#end = undefined;
    if (!on) return;
    const { link, topic, store } = this;
    const own = `__cursor:${topic}`;
    this.#end = link.follow(own, cursorSnapshot(topic), { type: 'unsubscribe', topic: own }, (event, data) =>
      store.set(moved(store.get(), event, data)),
    );
  }

  move(data: Json): void {
    this.#next = { data };
    this.#timer ??= this.#send();
  }

  #send(): ReturnType<typeof setTimeout> {
    this.link.send(cursorFrame(this.topic, this.#next!.data));
    this.#next = undefined;
    return setTimeout(() => {
      this.#timer = this.#next && this.#send();
    }, moveEvery);
  }

  leave(): void {
    this.#next = undefined;
    this.link.send(cursorLeave(this.topic));
  }

  close(): void {
    this.watch(false);
    clearTimeout(this.#timer);
    this.#timer = this.#next = undefined;
  }
}
