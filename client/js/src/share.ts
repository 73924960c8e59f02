import { RealtimeError } from './error.js';
import type { Frame, Link, Subscription, Wanted } from './link.js';
import { isPattern } from './names.js';
import { identity, told, untold, version, type Settings, type ToTab, type ToWorker } from './share-words.js';
import { storeOf } from './store.js';
import type { ConnectOptions, Item, Json, Place, Status } from './types.js';

/** How often in a minute the worker may drop a subscription of this tab before it is left for good. */
const maxLosses = 5;

/** What of the browser a tab needs to share; tests have their own. */
export interface Surroundings {
  /** How long the worker has to answer, in milliseconds, before the tab connects by itself. */
  within: number;
  /** Gives a port to the worker, and calls failed when there is none after all. */
  join(failed: (why: Error) => void): MessagePort;
  /** Holds a lock of that name until the tab is gone, or the function that it gives is called. */
  hold(name: string): Promise<() => void>;
  /** Calls gone once nobody holds the lock of that name any more. */
  watch(name: string, gone: () => void, signal: AbortSignal): void;
}

/** A link over the connection that all tabs share, or one of this tab's own where the browser cannot do that. */
export function shared(url: string, options: ConnectOptions, makeOwn: () => Link): Link {
  const locks = globalThis.navigator?.locks;
  if (!locks || !globalThis.crypto?.randomUUID) return makeOwn(); // not a secure context
  return new SharedLink(url, options, makeOwn, {
    within: 10_000,
    join(failed) {
      // Written so that bundlers see it. A script of another origin is refused, by throwing.
      const worker = new SharedWorker(new URL('./worker.js', import.meta.url), { type: 'module', name: 'pgcast 1' });
      worker.onerror = (event) => {
        event.preventDefault();
        failed(new Error('the shared worker could not be loaded'));
      };
      return worker.port;
    },
    hold: (name) =>
      new Promise((held, failed) => {
        locks.request(name, () => new Promise<void>((release) => held(release))).catch(failed);
      }),
    watch(name, gone, signal) {
      locks.request(name, { signal }, gone).catch(() => {}); // aborted
    },
  });
}

interface Sub {
  id: number;
  wanted: Wanted;
  take: (item: Item) => void;
  /** After what was handed over; undefined before there is one, and while a snapshot is on its way. */
  place: Place | undefined;
  own?: Subscription;
}

interface Call {
  id: number;
  frame: Frame;
  again: boolean;
  signal: AbortSignal | undefined;
  sent: boolean;
  done: (frame: Frame) => void;
  fail: (error: Error) => void;
}

interface Follow {
  id: number;
  topic: string;
  enter: Frame;
  exit: Frame;
  take: (event: string, data: Json) => void;
  end?: () => void;
}

/**
 * The link of a tab that shares its connection with others through a worker. Whenever that does
 * not work, or not any more, everything goes on over a connection of its own from the places
 * where it is: the app is told nothing, and loses nothing.
 */
export class SharedLink implements Link {
  readonly status = storeOf<Status>({ state: 'connecting', degraded: [] });
  private readonly subs = new Map<number, Sub>();
  private readonly calls = new Map<number, Call>();
  private readonly follows = new Map<number, Follow>();
  /** The newest seq of topics with a snapshot. */
  private readonly seen = new Map<string, number>();
  private names = 0;
  private port: MessagePort | undefined;
  private ready = false;
  private left = false;
  private losses = 0;
  private lost = 0;
  private attached = 0;
  private release: (() => void) | undefined;
  private end = new AbortController();
  private readonly closed = new AbortController();
  private own: Link | undefined;

  /** makeOwn makes a connection of the tab's own. It is used for cursors in any case, as a session has but one. */
  constructor(
    private readonly url: string,
    private readonly options: ConnectOptions,
    private readonly makeOwn: () => Link,
    private readonly around: Surroundings,
  ) {
    void this.attach();
    this.listen();
  }

  open(wanted: Wanted, take: (item: Item) => void): Subscription {
    const sub: Sub = { id: ++this.names, wanted: plain(wanted), take, place: wanted.place };
    this.subs.set(sub.id, sub);
    this.begin(sub);
    return {
      close: () => {
        if (!this.subs.delete(sub.id)) return;
        sub.own?.close();
        if (this.ready) this.say({ op: 'close', sub: sub.id });
      },
    };
  }

  request(frame: Frame, { again = false, signal }: { again?: boolean; signal?: AbortSignal } = {}): Promise<Frame> {
    if (this.over) return Promise.reject(closed());
    if (this.left) return this.carrier().request(frame, { again, ...(signal && { signal }) });
    return new Promise((resolve, reject) => {
      signal?.throwIfAborted();
      frame = plain(frame); // throws before anything is kept
      const id = ++this.names;
      const abort = (): void => {
        if (this.ready) this.say({ op: 'abort', call: id });
        call.fail(signal!.reason as Error);
      };
      const end = (): void => {
        this.calls.delete(id);
        signal?.removeEventListener('abort', abort);
      };
      const call: Call = {
        ...{ id, frame, again, signal, sent: false },
        done: (answer) => (end(), resolve(answer)),
        fail: (why) => (end(), reject(why)),
      };
      signal?.addEventListener('abort', abort);
      this.calls.set(id, call);
      this.ask(call);
    });
  }

  send(frame: Frame): void {
    if (!this.over) this.carrier().send(frame);
  }

  follow(topic: string, enter: Frame, exit: Frame, take: (event: string, data: Json) => void): () => void {
    const follow: Follow = { id: ++this.names, topic, enter, exit, take };
    this.follows.set(follow.id, follow);
    this.enter(follow);
    return () => {
      if (!this.follows.delete(follow.id)) return;
      follow.end?.();
      if (!follow.end && this.ready) this.say({ op: 'unfollow', follow: follow.id });
    };
  }

  cut(): void {
    if (this.ready) this.say({ op: 'cut' });
    this.own?.cut();
  }

  close(): void {
    if (this.over) return;
    this.detach();
    this.left = true;
    this.closed.abort();
    this.own?.close();
    for (const call of [...this.calls.values()]) call.fail(closed());
    this.status.set({ state: 'closed', degraded: [] });
  }

  /** close was called: from then on no connection is made any more. */
  private get over(): boolean {
    return this.closed.signal.aborted;
  }

  /** The connection of this tab's own, made when it is needed. */
  private carrier(): Link {
    return (this.own ??= this.makeOwn());
  }

  private async attach(): Promise<void> {
    this.attached = Date.now();
    const end = (this.end = new AbortController());
    const failed = (): void => {
      if (!end.signal.aborted) this.leave();
    };
    const timer = setTimeout(failed, this.around.within);
    end.signal.addEventListener('abort', () => clearTimeout(timer));
    try {
      const lock = `pgcast ${crypto.randomUUID()}`;
      const release = await this.around.hold(lock);
      if (end.signal.aborted) return release();
      this.release = release;
      const token = await this.token();
      if (end.signal.aborted) return;
      const port = (this.port = this.around.join(failed));
      port.onmessage = ({ data }: MessageEvent<ToTab>) => {
        if (end.signal.aborted) return;
        if (data.op === 'ready') clearTimeout(timer);
        this.hear(data);
      };
      port.onmessageerror = failed;
      this.say({ op: 'hello', version, lock, url: this.url, settings: this.settings(), who: identity(token), token });
    } catch {
      failed(); // also of a token function that throws: the own connection reports it
    }
  }

  private settings(): Settings {
    const { transport, user, minBackoff, maxBackoff, silence, connectTimeout } = this.options;
    return JSON.parse(JSON.stringify({ transport, user, minBackoff, maxBackoff, silence, connectTimeout })) as Settings;
  }

  private async token(): Promise<string | undefined> {
    const { token } = this.options;
    return typeof token === 'function' ? token() : token;
  }

  private say(message: ToWorker): void {
    this.port?.postMessage(message);
  }

  private hear(message: ToTab): void {
    switch (message.op) {
      case 'ready':
        this.ready = true;
        this.around.watch(message.lock, () => !this.end.signal.aborted && this.leave(), this.end.signal);
        for (const sub of this.subs.values()) this.begin(sub);
        for (const call of this.calls.values()) this.ask(call);
        for (const follow of this.follows.values()) this.enter(follow);
        return;
      case 'gone':
        // Another user signed in, or the worker took us for dead: once more, but not for ever.
        if (this.ready && Date.now() - this.attached > 10_000) return this.again();
        return this.leave();
      case 'status':
        return this.status.set({
          ...message.status,
          ...(message.status.transport && { transport: 'shared' as const }),
          ...(message.error && { error: untold(message.error) }),
        });
      case 'items': {
        const { end } = this;
        for (const [id, item] of message.items) {
          // What was handed over may have ended all this.
          if (end.signal.aborted) return;
          const sub = this.subs.get(id);
          if (sub) this.taken(sub, item);
        }
        return this.say({ op: 'taken', items: message.items.length });
      }
      case 'lost': {
        const sub = this.subs.get(message.sub);
        if (!sub) return;
        if (Date.now() - this.lost > 60_000) this.losses = 0;
        this.lost = Date.now();
        if (++this.losses > maxLosses) return this.leave();
        return this.begin(sub);
      }
      case 'answer':
        return this.calls.get(message.call)?.done(message.frame);
      case 'failed':
        return this.calls.get(message.call)?.fail(untold(message.error));
      case 'live':
        return this.follows.get(message.follow)?.take(message.event, message.data);
      case 'token':
        return void this.show(message.call);
    }
  }

  private async show(call: number): Promise<void> {
    const { port } = this;
    let answer: ToWorker;
    try {
      const token = await this.token();
      answer = { op: 'token', call, who: identity(token), token };
    } catch (error) {
      answer = { op: 'no token', call, error: told(error) };
    }
    port?.postMessage(answer);
  }

  /** Keeps the place of a subscription by the rules of docs/protocol.md, and hands the item over. */
  private taken(sub: Sub, item: Item): void {
    const { topic, snapshot } = sub.wanted;
    switch (item.type) {
      case 'event':
        sub.place = item.place;
        if (snapshot) this.seen.set(topic, item.seq);
        break;
      case 'subscribed':
        if (!sub.place && !snapshot) sub.place = { after: item.seq };
        break;
      case 'snapshot':
        sub.place = item.last ? item.place : undefined;
        if (item.place) this.seen.set(topic, item.place.after);
        break;
      case 'gap':
        if (snapshot) sub.place = undefined;
        else if (!isPattern(topic)) sub.place = { ...sub.place, after: item.tail - 1 };
        if (sub.place && !isPattern(topic)) delete sub.place.id;
        break;
      case 'reset':
        sub.place = snapshot ? undefined : { after: item.head };
        this.seen.delete(topic);
        break;
      case 'denied':
        this.subs.delete(sub.id);
    }
    sub.take(item);
  }

  /** What to ask for, to go on where the subscription is. */
  private rest(sub: Sub): Wanted {
    const { place: _, ...wanted } = sub.wanted;
    return { ...wanted, ...(sub.place && { place: sub.place }) };
  }

  private begin(sub: Sub): void {
    if (this.over) return;
    if (this.left) sub.own = this.carrier().open(this.rest(sub), (item) => this.taken(sub, item));
    else if (this.ready) this.say({ op: 'open', sub: sub.id, wanted: this.rest(sub), since: this.seen.get(sub.wanted.topic) });
  }

  private ask(call: Call): void {
    if (!this.ready) return;
    call.sent = true;
    this.say({ op: 'request', call: call.id, frame: call.frame, again: call.again });
  }

  private enter(follow: Follow): void {
    if (this.over) return;
    const { id, topic, enter, exit, take } = follow;
    // Others are shown one cursor of a session, so this tab needs a session for its own.
    if (this.left || topic.startsWith('__cursor:')) follow.end ??= this.carrier().follow(topic, enter, exit, take);
    else if (this.ready) this.say({ op: 'follow', follow: id, topic, enter: plain(enter), exit });
  }

  /** Forgets the worker, which forgets the tab. */
  private detach(): void {
    this.say({ op: 'bye' });
    this.port?.close();
    this.port = undefined;
    this.ready = false;
    this.end.abort();
    this.release?.();
    this.release = undefined;
    for (const call of [...this.calls.values()]) {
      if (call.sent && !call.again) call.fail(new RealtimeError('disconnected', 'the connection broke before the answer'));
      call.sent = false;
    }
  }

  private again(): void {
    this.detach();
    void this.attach();
  }

  /** Goes on over a connection of the tab's own, for good. */
  private leave(): void {
    this.detach();
    this.left = true;
    const own = this.carrier();
    for (const sub of this.subs.values()) this.begin(sub);
    for (const { frame, again, signal, done, fail } of [...this.calls.values()]) {
      own.request(frame, { again, ...(signal && { signal }) }).then(done, fail);
    }
    for (const follow of this.follows.values()) this.enter(follow);
    own.status.subscribe((status) => this.status.set(status));
  }

  /** What a worker does not notice by itself. */
  private listen(): void {
    const wake = (): void => {
      if (this.ready && globalThis.document?.visibilityState !== 'hidden') this.say({ op: 'wake' });
    };
    const { signal } = this.closed;
    globalThis.addEventListener?.('online', wake, { signal });
    globalThis.document?.addEventListener('visibilitychange', wake, { signal });
  }
}

const closed = (): RealtimeError => new RealtimeError('closed', 'the connection was closed');

/**
 * What JSON makes of it, as a connection of one's own would send it: a port refuses functions and
 * proxies (the reactive objects of Vue and Svelte), and knows nothing of toJSON.
 */
const plain = <T>(value: T): T => JSON.parse(JSON.stringify(value)) as T;
