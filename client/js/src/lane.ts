import { Backoff, maxHint } from './backoff.js';
import { dialWebSocket, webSocket, type Wire } from './dial.js';
import { RealtimeError } from './error.js';
import * as frames from './frames.js';
import type { Frame } from './link.js';
import { overlaps } from './names.js';
import { Store } from './store.js';
import type { Host, Sub } from './subscription.js';
import type { ConnectOptions, Json, Status } from './types.js';

export type Transport = 'websocket' | 'sse';

/** What lanes to one server have in common. */
export interface Common {
  url: URL;
  options: ConnectOptions;
  /** The server has welcomed us once: how that was done is not doubted any more. */
  proven?: boolean;
  /** How often there was no WebSocket to be had, before a welcome. */
  failures: number;
  /** HTTP worked before the newest of these. */
  reachable?: boolean;
}

/** Follows the server's own topics; see Link.follow. */
interface Follow {
  topic: string;
  enter: Frame;
  take: (event: string, data: Json) => void;
}

interface Request {
  frame: Frame;
  again: boolean;
  sent: boolean;
  done: (frame: Frame) => void;
  fail: (error: Error) => void;
}

/** Of one subscribe-batch: some proxies do not like long messages, and a server takes none above its max-frame. */
const batchItems = 50;
/** How long the server has to say something when a device woke up, in milliseconds. */
const probeTimeout = 5000;

/**
 * One connection that comes back, with the subscriptions that are on it. No two of them may
 * select the same topic, so that each event belongs to exactly one.
 */
export class Lane implements Host {
  readonly subs = new Map<string, Sub>();
  readonly #follows = new Set<Follow>();
  readonly status = new Store<Status>({ state: 'connecting', degraded: [] });

  readonly #pause: Backoff;
  readonly #calls = new Map<number, Request>();
  #refs = 0;
  #wire: Wire | undefined;
  #attempt: object = {}; // of this moment: what belongs to an older one is passed over
  #via: Transport | undefined; // of this attempt
  #open = false;
  #welcome = false;
  #healthy = false;
  #lapses = 0; // how often in a row our token had expired when it was shown
  #began = 0;
  #heard = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(readonly common: Common) {
    this.#pause = this.backoff();
    void this.#connect();
  }

  backoff(): Backoff {
    const { minBackoff = 100, maxBackoff = 5000 } = this.common.options;
    return new Backoff(minBackoff, maxBackoff);
  }

  add(sub: Sub): void {
    this.subs.set(sub.topic, sub);
    this.ask(sub);
  }

  ask(sub: Sub): void {
    // Without a connection, the next one asks for everything.
    if (this.#open) this.#askFor([sub]);
  }

  forget(sub: Sub): void {
    if (this.subs.get(sub.topic) !== sub) return;
    this.subs.delete(sub.topic);
    this.send(frames.unsubscribe(sub.topic));
    // The server takes that for an end of all that is live on the topic.
    for (const { enter } of this.#follows) if (enter.topic === sub.topic) this.send(enter);
  }

  request(frame: Frame, { again = false, signal }: { again?: boolean | undefined; signal?: AbortSignal | undefined } = {}): Promise<Frame> {
    return new Promise((resolve, reject) => {
      signal?.throwIfAborted();
      const { state, error } = this.status.get();
      if (state === 'closed' || state === 'refused') throw error ?? new RealtimeError('closed', 'the connection was closed');
      const ref = ++this.#refs;
      const abort = (): void => call.fail(signal!.reason as Error);
      const end = (): void => {
        this.#calls.delete(ref);
        signal?.removeEventListener('abort', abort);
      };
      const call: Request = {
        frame: { ...frame, ref },
        again,
        sent: false,
        done: (answer) => (end(), resolve(answer)),
        fail: (why) => (end(), reject(why)),
      };
      signal?.addEventListener('abort', abort);
      this.#calls.set(ref, call);
      if (this.#open) this.#sendCall(call);
    });
  }

  follow(topic: string, enter: Frame, exit: Frame, take: (event: string, data: Json) => void): () => void {
    const follow = { topic, enter, take };
    this.#follows.add(follow);
    this.send(enter);
    return () => {
      if (this.#follows.delete(follow)) this.send(exit);
    };
  }

  /** Sends a frame if there is a connection. */
  send(frame: Frame): void {
    if (this.#open) this.#wire!.send(frame);
  }

  #sendCall(call: Request): void {
    call.sent = true;
    this.send(call.frame);
  }

  giveUp(why: string): void {
    this.#healthy = false;
    this.#lost(new Error(why));
  }

  /** Drops the connection as a failing network would. */
  cut(): void {
    if (this.#open) this.#lost(new Error('cut'));
  }

  /**
   * Comes back now if it waits; asks a silent connection whether it is alive. sure: the network is
   * another one. away: there is none, which is told, no more.
   */
  wake(sure = false, away = false): void {
    const status = this.status.get();
    if (away) {
      if (status.retryAt) this.#tell(status);
    } else if (status.retryAt) void this.#connect();
    else if (this.#welcome && (sure || Date.now() - this.#heard > probeTimeout)) {
      const attempt = this.#attempt;
      const heard = (this.#heard = Date.now() - 1);
      // It is answered although there is no such subscription.
      this.send({ ...frames.unsubscribe('__probe'), ref: ++this.#refs });
      setTimeout(() => {
        if (attempt === this.#attempt && heard === this.#heard) this.#lost(new Error('the connection does not answer'));
      }, probeTimeout);
    }
  }

  close(state: 'closed' | 'refused' = 'closed', error?: Error): void {
    const old = this.status.get();
    if (old.state === 'closed' || old.state === 'refused') return;
    this.#off();
    this.#wire?.close();
    this.status.set({ state, degraded: [], ...(error && { error }) });
    for (const call of [...this.#calls.values()]) call.fail(error ?? new RealtimeError('closed', 'the connection was closed'));
  }

  /** Tells what is so while it is not online, unless more says something else. */
  #tell(more: Partial<Status>): void {
    this.status.set({ degraded: [], ...more, state: globalThis.navigator?.onLine === false ? 'offline' : 'connecting' });
  }

  #off(): void {
    this.#attempt = {};
    clearTimeout(this.#timer);
    this.#open = this.#welcome = false;
    for (const sub of this.subs.values()) sub.cutOff();
  }

  async #token(): Promise<string | undefined> {
    const { token } = this.common.options;
    return typeof token === 'function' ? token() : token;
  }

  async #connect(): Promise<void> {
    this.#off();
    const attempt = this.#attempt;
    const current = (): boolean => attempt === this.#attempt;
    const { common } = this;
    const { options } = common;
    const limit = options.connectTimeout ?? 10_000;
    this.#via = undefined;
    this.#began = Date.now();
    const { error } = this.status.get();
    this.#tell(error ? { error } : {});
    this.#timer = setTimeout(() => this.#lost(new Error(`no connection within ${limit} ms`)), limit);
    try {
      const token = await this.#token();
      let dial = dialWebSocket;
      let transport: Transport = 'websocket';
      const there = !!webSocket(options);
      if (options.transport !== transport && (!there || common.failures || options.transport === 'sse')) {
        const sse = await import('./sse.js');
        if (await sse.better(common, there)) {
          dial = sse.dialSSE;
          transport = 'sse';
        }
      }
      if (!current()) return;
      this.#via = transport;
      this.#wire = dial({
        url: common.url,
        hello: frames.hello(options.user, token),
        options,
        open: () => current() && this.#opened(),
        frame: (frame) => current() && this.#frame(frame, transport),
        closed: (code, reason) => {
          if (!current()) return;
          this.#wire = undefined;
          this.#ended(code, reason);
        },
      });
    } catch (why) {
      if (current()) this.#lost(why as Error);
    }
  }

  #opened(): void {
    this.#open = true;
    this.#askFor([...this.subs.values()]);
    for (const { enter } of this.#follows) this.send(enter);
    for (const call of this.#calls.values()) this.#sendCall(call);
  }

  #askFor(subs: Sub[]): void {
    for (let i = 0; i < subs.length; i += batchItems) {
      const ref = ++this.#refs;
      this.send(frames.subscribe(ref, subs.slice(i, i + batchItems).map((sub) => sub.asked(ref))));
    }
  }

  #frame(frame: Frame, transport: Transport): void {
    this.#heard = Date.now();
    const topic = frame.topic as string;
    switch (frame.type) {
      case undefined:
        return this.#event(frame, topic);
      case 'batch': {
        const attempt = this.#attempt;
        for (const event of frame.events as Frame[]) {
          // What was handed over may have cut the connection.
          if (attempt !== this.#attempt) return;
          this.#event(event, event.topic as string);
        }
        return;
      }
      case 'subscribed':
        this.#healthy = true;
        return this.subs.get(topic)?.handle(frame);
      case 'subscribe-denied':
        if (topic.startsWith('__')) return this.#live(topic, 'denied', frame.reason);
        return this.subs.get(topic)?.handle(frame);
      case 'snapshot':
      case 'gap':
      case 'reset':
        return this.subs.get(topic)?.handle(frame);
      case 'welcome':
        this.#lapses = 0;
        if (this.#welcome) return;
        this.#welcome = true;
        if (transport === 'websocket') this.common.failures = 0;
        this.common.proven = true;
        clearTimeout(this.#timer);
        this.#watch();
        return this.status.set({ state: 'online', transport, degraded: [] });
      case 'token-expiring':
        // Where there is none now, the next connection asks for one.
        return void this.#token()
          .then((token) => (token ? this.request(frames.auth(token)) : undefined))
          .catch(() => {});
      case 'error':
        return this.#failed(frame);
      default: {
        const call = this.#calls.get(frame.ref as number);
        if (call) {
          this.#healthy = true;
          call.done(frame);
        }
      }
    }
  }

  #event(frame: Frame, topic: string): void {
    if (topic.startsWith('__')) return this.#live(topic, frame.event as string, frame.data);
    if (frame.position === undefined) return this.subs.get(topic)?.handle(frame);
    for (const sub of this.subs.values()) {
      if (sub.pattern && overlaps(sub.topic, topic)) return sub.handle(frame);
    }
  }

  #live(topic: string, event: string, data: unknown): void {
    if (topic === '__system') {
      const { backend } = data as { backend: string };
      const status = this.status.get();
      const others = status.degraded.filter((one) => one !== backend);
      this.status.set({ ...status, degraded: event === 'degraded' ? [...others, backend] : others });
    }
    for (const follow of [...this.#follows]) if (follow.topic === topic) follow.take(event, data as Json);
  }

  #failed(frame: Frame): void {
    const ref = frame.ref as number | undefined;
    const code = frame.code as string;
    const error = new RealtimeError(code, frame.message as string, frame.retry_after as number | undefined);
    const call = ref && this.#calls.get(ref);
    if (call) return call.fail(error);
    const passes = ['unavailable', 'internal', 'rate_limited'].includes(code);
    // A whole subscribe may have been refused.
    const refused = ref ? [...this.subs.values()].filter((sub) => sub.ref === ref) : [];
    for (const sub of refused) sub.handle({ ...frame, type: 'subscribe-denied', reason: passes ? 'INTERNAL_ERROR' : code });
    if (!refused.length) this.status.set({ ...this.status.get(), error });
  }

  /** Ends the connection when the server was silent for too long. */
  #watch(): void {
    const limit = this.common.options.silence ?? 75_000;
    const left = this.#heard + limit - Date.now();
    if (left <= 0) return this.#lost(new Error(`the server was silent for ${limit} ms`));
    this.#timer = setTimeout(() => this.#watch(), left);
  }

  /** Takes the end of a connection in, by its close code. */
  #ended(code: number, reason: string): void {
    const error = new RealtimeError(`close_${code}`, reason || `the connection ended with code ${code}`);
    const hint = code === 1001 && /^retry=(\d+)$/.exec(reason);
    if (code === 4401 && this.common.options.token && reason.startsWith('the token has expired')) {
      if (this.#welcome) return this.#lost(error, 0);
      if (++this.#lapses < 2) return this.#lost(error);
    }
    if (code === 1008 || code === 4401 || code === 4403) return this.close('refused', error);
    if (hint) return this.#lost(error, Math.min(Number(hint[1]), maxHint));
    if (code === 1009) {
      // One of those that were sent; trying again would only end the next connection.
      for (const call of [...this.#calls.values()]) {
        if (call.sent) call.fail(new RealtimeError('too_large', 'the server closed the connection over a frame that is too large'));
      }
    }
    this.#lost(error, undefined, code === 4429);
  }

  /** The connection is gone: comes back after a pause, in milliseconds; slow: a long one. */
  #lost(error: Error, wait?: number, slow = false): void {
    if (this.#via === 'websocket' && !this.common.proven) this.common.failures++;
    this.#wire?.close(true);
    this.#wire = undefined;
    if (this.#healthy || Date.now() - this.#began > this.#pause.max) this.#pause.reset();
    this.#healthy = false;
    this.#off();
    for (const call of [...this.#calls.values()]) {
      if (call.sent && !call.again) call.fail(new RealtimeError('disconnected', 'the connection broke before the answer'));
      call.sent = false;
    }
    if (slow || wait === undefined) wait = this.#pause.pause(slow);
    this.#tell({ error, retryAt: Date.now() + wait });
    this.#timer = setTimeout(() => void this.#connect(), wait);
  }
}
