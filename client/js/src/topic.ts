import { RealtimeError } from './error.js';
import * as frames from './frames.js';
import { cursorsOf, presenceOf } from './lazy.js';
import type { Frame, Link, Subscription } from './link.js';
import { isPattern } from './names.js';
import type { Saver } from './places.js';
import { Queue } from './queue.js';
import { report, safely } from './store.js';
import type { EventItem, EventMap, Filter, Item, Page, Place, Readable, Status, Topic, TopicOptions } from './types.js';

const notices = ['subscribed', 'snapshot', 'gap', 'reset', 'denied', 'event'];

/** The implementation of Topic. */
export class TopicOf<E extends EventMap = EventMap> {
  readonly presence: ReturnType<typeof presenceOf>;
  readonly cursors: ReturnType<typeof cursorsOf>;
  readonly #handlers = new Map<string, Set<{ run: (item: never) => void }>>();
  readonly #queues = new Set<Queue<Item>>();
  #listeners = 0;
  #sub: Subscription | undefined;
  #at: Place | undefined; // after the last item that was given to handlers and queues
  #paused = false; // until every iteration has taken what waits for it
  #denied = false;
  #closed = false;
  #refused: Error | undefined; // why the connection is over for good
  #storage: Promise<Saver> | undefined; // where its place is to be read yet
  #recalling = false;
  #saver: Saver | undefined; // where it is kept then
  #unwatch: () => void;

  constructor(
    readonly link: Link,
    readonly name: string,
    readonly options: TopicOptions,
    readonly buffer: number,
    saver: Promise<Saver> | undefined,
    readonly left: () => void,
  ) {
    const { after, snapshot } = options;
    if (after !== undefined) this.#at = typeof after === 'number' ? { after } : after;
    else if (saver && !snapshot) this.#storage = saver;
    this.presence = presenceOf(link, name);
    this.cursors = cursorsOf(link, name);
    this.#unwatch = link.status.subscribe(({ state, error }) => {
      if (state === 'refused') this.#end(error ?? new RealtimeError('refused', 'the server refused the connection'));
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
    // Each gets all that came since it began: of the longest the oldest is the oldest of all.
    const longest = [...this.#queues].reduce<Queue<Item> | undefined>((a, b) => (b.size > (a?.size ?? 0) ? b : a), undefined);
    return longest ? longest.before : this.#at;
  }

  [Symbol.asyncIterator](): AsyncIterableIterator<Item<E>> {
    return this.#queue() as AsyncIterableIterator<Item<E>>;
  }

  events(): AsyncIterableIterator<EventItem<E>> {
    const queue = this.#queue();
    const next = queue.next.bind(queue);
    queue.next = async () => {
      for (;;) {
        const result = await next();
        if (result.done || result.value.type === 'event') return result;
      }
    };
    return queue as unknown as AsyncIterableIterator<EventItem<E>>;
  }

  #queue(): Queue<Item> {
    this.#check();
    const queue = new Queue<Item>(
      () => this.#moved(),
      () => {
        if (!this.#queues.delete(queue)) return;
        this.#moved();
        this.#leave();
      },
    );
    this.#queues.add(queue);
    if (this.#refused) queue.end(this.#refused);
    this.#listen();
    return queue;
  }

  #check(): void {
    // Who listens to a connection that was refused hears nothing; its status says why.
    if (this.#closed && !this.#refused) throw new RealtimeError('closed', `${this.name} was closed: get it anew with topic()`);
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
    if (this.#sub || this.#recalling || this.#paused || this.#denied || this.#closed || !this.#listeners) return;
    if (this.#storage) void this.#recall(this.#storage);
    else this.#begin();
  }

  /** Goes on from the place that is kept. */
  async #recall(storage: Promise<Saver>): Promise<void> {
    this.#storage = undefined;
    this.#recalling = true;
    try {
      this.#saver = await storage;
      this.#at = await this.#saver.get(this.name);
    } catch (error) {
      report(error);
    }
    this.#recalling = false;
    this.#open();
  }

  #begin(): void {
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
    for (const queue of this.#queues) queue.push(item, before);
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
    if (!this.#closed) this.#saver?.set(this.name, () => this.place);
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
    this.#refused = error;
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
