import * as frames from './frames.js';
import type { Frame, Link } from './link.js';
import { Store } from './store.js';
import type { CursorOf, Cursors, Json, Presence } from './types.js';

type User = Record<string, unknown>;

/** The least time between two moves that are sent, in milliseconds. */
const moveEvery = 25;

/** Who is here on a topic. */
export class PresenceStore extends Store<ReadonlyMap<string, User>> implements Presence {
  #stop: (() => void) | undefined;
  #joined: Frame | undefined;
  #watched = false;

  constructor(
    readonly link: Link,
    readonly topic: string,
  ) {
    super(new Map(), () => {
      this.#watched = true;
      this.#follow();
      return () => {
        this.#watched = false;
        this.#follow();
      };
    });
  }

  /** To be here is to be told of the others, too. */
  #follow(): void {
    if (this.#joined ? this.#stop : false) return;
    this.#end();
    if (this.#joined) this.#enter(this.#joined, frames.presence(this.topic, 'leave'));
    else if (this.#watched) this.#enter(frames.presence(this.topic, 'sync'), frames.presence(this.topic, 'unsync'));
  }

  #end(): void {
    this.#stop?.();
    this.#stop = undefined;
  }

  #enter(enter: Frame, exit: Frame): void {
    this.#stop = this.link.follow(`__presence:${this.topic}`, enter, exit, (event, data) => {
      const users = new Map(event === 'presence_diff' ? this.get() : []);
      const diff = data as { joins?: Record<string, User>; leaves?: Record<string, User> };
      if (event === 'presence_diff') for (const key in diff.leaves) users.delete(key);
      else if (event !== 'presence_state' && event !== 'denied') return;
      const joins = event === 'presence_diff' ? diff.joins : event === 'denied' ? {} : (data as Record<string, User>);
      for (const key in joins) users.set(key, joins[key]!);
      this.set(users);
    });
  }

  async join(data?: Record<string, Json>): Promise<string> {
    const frame = frames.presence(this.topic, 'join', data);
    this.#end();
    this.#joined = frame;
    this.#follow();
    try {
      const answer = await this.link.request(frame, { again: true });
      return (answer.data as { key: string }).key;
    } catch (error) {
      if (this.#joined === frame) {
        this.#joined = undefined;
        this.#end();
        this.#follow();
      }
      throw error;
    }
  }

  async leave(): Promise<void> {
    if (!this.#joined) return;
    this.#joined = undefined;
    this.#end();
    this.#follow();
  }

  async count(): Promise<number> {
    const answer = await this.link.request(frames.presence(this.topic, 'count'), { again: true });
    return (answer.data as { count: number }).count;
  }

  close(): void {
    this.#joined = undefined;
    this.#end();
  }
}

/** The cursors of the others on a topic. */
export class CursorStore extends Store<ReadonlyMap<string, CursorOf>> implements Cursors {
  #next: { data: Json } | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #end: (() => void) | undefined;

  constructor(
    readonly link: Link,
    readonly topic: string,
  ) {
    super(new Map(), () => {
      const own = `__cursor:${topic}`;
      this.#end = link.follow(own, frames.cursorSnapshot(topic), frames.unsubscribe(own), (event, data) => this.#take(event, data));
      return this.#end;
    });
  }

  #take(event: string, data: Json): void {
    const cursors = new Map(event === 'snapshot' || event === 'denied' ? [] : this.get());
    if (event === 'remove') cursors.delete((data as unknown as CursorOf).key);
    else if (event !== 'denied') for (const one of [data].flat() as unknown as CursorOf[]) cursors.set(one.key, one);
    this.set(cursors);
  }

  move(data: Json): void {
    this.#next = { data };
    if (!this.#timer) this.#send();
  }

  #send(): void {
    this.#timer = undefined;
    if (!this.#next) return;
    this.link.send(frames.cursor(this.topic, this.#next.data));
    this.#next = undefined;
    this.#timer = setTimeout(() => this.#send(), moveEvery);
  }

  leave(): void {
    this.#next = undefined;
    this.link.send(frames.cursorLeave(this.topic));
  }

  close(): void {
    this.#end?.();
    clearTimeout(this.#timer);
    this.#timer = this.#next = undefined;
  }
}
