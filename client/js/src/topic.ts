import { RealtimeError } from './error.js';
import * as frames from './frames.js';
import type { Frame, Link, Subscription } from './link.js';
import { CursorStore, PresenceStore } from './live.js';
import { isPattern } from './names.js';
import type { Saver } from './places.js';
import { Queue } from './queue.js';
import { report, safely } from './store.js';
import type { EventItem, EventMap, Filter, Item, Page, Place, Readable, Status, Topic, TopicOptions } from './types.js';

const notices = ['subscribed', 'snapshot', 'gap', 'reset', 'denied', 'event'];

/** The implementation of Topic. */
export class TopicOf<E extends EventMap = EventMap> {
  readonly presence: PresenceStore;
  readonly cursors: CursorStore;
  readonly #handlers = new Map<string, Set<{ run: (item: never) => void }>>();
  readonly #queues = new Set<Queue<Item>>();
  #listeners = 0;
  #sub: Subscription | undefined;
  #at: Place | undefined; // after the last item that was given to handlers and queues
  #turn = 0; // of that item
  #paused = false; // until every iteration has taken what waits for it
  #denied = false;
  #closed = false;
  #stored: Promise<void> | undefined; // the place is read from the storage
  #unwatch: () => void;

  constructor(
    readonly link: Link,
    readonly name: string,
    readonly options: TopicOptions,
    readonly buffer: number,
    readonly saver: Saver | undefined,
    readonly left: () => void,
  ) {
    const { after } = options;
    if (after !== undefined) this.#at = typeof after === 'number' ? { after } : after;
    else if (options.snapshot) this.saver = undefined;
    if (this.#at) this.saver = undefined;
    this.presence = new PresenceStore(link, name);
    this.cursors = new CursorStore(link, name);
    this.#unwatch = link.status.subscribe(({ state, error }) => {
      if (state === 'refused') this.#end(error);
      if (state === 'closed') this.#end();
    });
  }

  on(name: string, run: (item: never) => void): () => void {
    this.#check();
    const entry = { run };
    let set = this.#handlers.get(name);
    if (!set) this.#handlers.set(name, (set = new Set()));
    set.add(entry);
    this.#listen();
    return () => {
      if (set.delete(entry)) this.#leave();
    };
  }

  get status(): Readable<Status> {
    return this.link.status;
  }

  refresh(): void {
    if (!this.options.snapshot) return;
    this.#at = undefined;
    this.#stop();
    this.#open();
  }

  get place(): Place | undefined {
    let oldest: { before: Place | undefined; turn: number } | undefined;
    for (const queue of this.#queues) {
      const first = queue.oldest;
      if (first && (!oldest || first.turn < oldest.turn)) oldest = first;
    }
    return oldest ? oldest.before : this.#at;
  }

  [Symbol.asyncIterator](): AsyncIterableIterator<Item<E>> {
    return this.#queue() as AsyncIterableIterator<Item<E>>;
  }

  events(): AsyncIterableIterator<EventItem<E>> {
    return this.#queue(true) as unknown as AsyncIterableIterator<EventItem<E>>;
  }

  #queue(only = false): Queue<Item> {
    this.#check();
    const queue = new Queue<Item>(
      () => this.#moved(),
      () => {
        if (!this.#queues.delete(queue)) return;
        this.#moved();
        this.#leave();
      },
    );
    const { push } = queue;
    if (only) {
      queue.push = (item, before, turn) => {
        if (item.type === 'event') push.call(queue, item, before, turn);
      };
    }
    this.#queues.add(queue);
    this.#listen();
    return queue;
  }

  #check(): void {
    if (this.#closed) throw new RealtimeError('closed', `${this.name} was closed: get it anew with topic()`);
  }

  #listen(): void {
    this.#listeners++;
    this.#denied = false;
    this.#open();
  }

  #leave(): void {
    // Whoever listens again at once finds the subscription as it was.
    if (!--this.#listeners) queueMicrotask(() => this.#listeners || this.#stop());
  }

  #open(): void {
    if (this.#sub || this.#paused || this.#denied || this.#closed || !this.#listeners) return;
    if (this.saver && !this.#at) {
      this.#stored ??= this.saver.get(this.name).then(
        (place) => {
          this.#at ??= place;
        },
        (error: unknown) => report(error),
      ).then(() => {
        this.#stored = Promise.resolve();
        this.#begin();
      });
      return;
    }
    this.#begin();
  }

  #begin(): void {
    if (this.#sub || this.#paused || this.#denied || this.#closed || !this.#listeners) return;
    const { snapshot, filter } = this.options;
    const at = this.#at;
    this.#sub = this.link.open(
      { topic: this.name, ...(at && { place: at }), ...(snapshot && { snapshot }), ...(filter && { filter }) },
      (item) => this.#take(item),
    );
  }

  #stop(): void {
    this.#sub?.close();
    this.#sub = undefined;
  }

  #take(item: Item): void {
    const before = this.#at;
    const { snapshot } = this.options;
    switch (item.type) {
      case 'event':
        this.#at = item.place;
        break;
      case 'subscribed':
        if (!item.resumed && !snapshot) this.#at = { after: item.seq };
        break;
      case 'snapshot':
        this.#at = item.place;
        break;
      case 'gap':
        if (snapshot) this.#at = undefined;
        else if (!isPattern(this.name)) this.#at = { after: item.tail - 1, ...(before?.asOf && { asOf: before.asOf }) };
        break;
      case 'reset':
        this.#at = snapshot ? undefined : { after: item.head };
        break;
      case 'denied':
        this.#denied = true;
        this.#sub = undefined;
    }
    this.#turn++;
    for (const queue of this.#queues) queue.push(item, before, this.#turn);
    if (item.type === 'event') {
      this.#call('event', item);
      if (!notices.includes(item.event)) this.#call(item.event, item);
    } else {
      this.#call(item.type, item);
    }
    if (this.#denied) this.#finish();
    // Not amid a snapshot, which would begin anew.
    if (this.#at && this.#sub && [...this.#queues].some((queue) => queue.size >= this.buffer)) {
      this.#paused = true;
      this.#stop();
    }
    this.#save();
  }

  #call(name: string, item: Item): void {
    for (const { run } of [...(this.#handlers.get(name) ?? [])]) safely(run as (item: Item) => void, item);
  }

  #moved(): void {
    this.#save();
    if (!this.#paused || [...this.#queues].some((queue) => queue.size)) return;
    this.#paused = false;
    this.#open();
  }

  #save(): void {
    if (this.saver && !this.#closed) this.saver.set(this.name, () => this.place);
  }

  /** Iterations end, behind what waits for them. */
  #finish(error?: Error): void {
    for (const queue of this.#queues) {
      queue.end(error);
      this.#listeners--;
    }
    this.#queues.clear();
  }

  async publish(event: string, data: unknown, options: { key?: string; signal?: AbortSignal } = {}): Promise<{ id: string }> {
    const frame = frames.publish(this.name, event, data, options.key ?? uuid());
    const answer = await this.link.request(frame, { again: true, ...(options.signal && { signal: options.signal }) });
    return { id: answer.id as string };
  }

  async history(options: { after?: number; limit?: number; filter?: Filter; signal?: AbortSignal } = {}): Promise<Page<E>> {
    const { after = 0, limit, filter = this.options.filter, signal } = options;
    const answer = await this.link.request(frames.history(this.name, after, limit, filter), { again: true, ...(signal && { signal }) });
    const events = (answer.events as Frame[]).map((each) => frames.eventItem(each));
    const head = answer.head as number;
    const next = (answer.next as number | undefined) ?? events.at(-1)?.place.after ?? Math.max(after, head);
    return { events: events as unknown as EventItem<E>[], tail: answer.tail as number, head, next };
  }

  close(): void {
    if (this.#closed) return;
    this.#end();
    this.presence.close();
    this.cursors.close();
    this.left();
  }

  #end(error?: Error): void {
    this.#save();
    this.#closed = true;
    this.#stop();
    this.#finish(error);
    queueMicrotask(() => this.#unwatch());
  }
}

/** A key that nobody else has. Pages that were not loaded safely have no randomUUID. */
function uuid(): string {
  const { crypto } = globalThis;
  if (crypto?.randomUUID) return crypto.randomUUID();
  return Array.from({ length: 4 }, () => Math.random().toString(36).slice(2)).join('');
}

/** Its type for apps, whose events have types. */
export const asTopic = <E extends EventMap>(topic: TopicOf<E>): Topic<E> => topic as unknown as Topic<E>;
