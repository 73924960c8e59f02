import { backoff, maxHint } from './backoff.js';
import { dialWebSocket, webSocket, type Wire } from './dial.js';
import { RealtimeError } from './error.js';
import * as frames from './frames.js';
import type { Frame, Link } from './link.js';
import { overlaps } from './names.js';
import { storeOf } from './store.js';
import { subOf, type Host, type Read, type Sub } from './subscription.js';
import type { ConnectOptions, Json, Status } from './types.js';

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

interface Call {
  frame: Frame;
  again: boolean | undefined;
  sent: boolean;
  /** Its answer, or why there is none. */
  end: (error: Error | undefined, answer?: Frame) => void;
}

interface Lane extends Link {
  /** Nothing is subscribed on it, or on those behind it. */
  idle(): boolean;
  close(state?: 'closed' | 'refused', error?: Error): void;
}

/** Of one subscribe-batch: some proxies do not like long messages, and a server takes none above its max-frame. */
const batchItems = 50;
/** How long the server has to say something when a device woke up, in milliseconds. */
const probeTimeout = 5000;

/** A link over connections of one's own. url is complete; see endpoint. */
export const socketLink = (url: string | URL, options: ConnectOptions): Link => laneOf({ url: new URL(url), options, failures: 0 });

/**
 * One connection that comes back, with the subscriptions that are on it. No two of them may
 * select the same topic: the server hands a session each event once, and each event has to belong
 * to exactly one. What overlaps with another goes over the next lane, which is made for it.
 */
function laneOf(common: Common): Lane {
  const { url, options } = common;
  const { minBackoff = 100, maxBackoff = 5000, connectTimeout = 10_000, silence = 75_000 } = options;
  const subs = new Map<string, Sub>();
  const follows = new Set<Follow>();
  const calls = new Map<number, Call>();
  const status = storeOf<Status>({ state: 'connecting', degraded: [] });
  const newPauses = (): ReturnType<typeof backoff> => backoff(minBackoff, maxBackoff);
  const pauses = newPauses();
  const listening = new AbortController();
  let next: Lane | undefined;
  let refs = 0;
  let wire: Wire | undefined;
  let attempt = 0; // of this moment: what belongs to an older one is passed over
  let transport: Status['transport']; // of this attempt
  let open = false;
  let welcome = false;
  let healthy = false;
  let lapses = 0; // how often in a row our token had expired when it was shown
  let began = 0;
  let heard = 0;
  let timer: ReturnType<typeof setTimeout> | undefined;

  const now = (): number => Date.now();
  const token = async (): Promise<string | undefined> => (typeof options.token === 'function' ? options.token() : options.token);
  const over = (): boolean => /closed|refused/.test(status.get().state);
  const whyOver = (): Error => status.get().error ?? new RealtimeError('closed', 'the connection was closed');

  /** Sends a frame if there is a connection. */
  const send = (frame: Frame): void => {
    if (open) wire!.send(frame);
  };
  const sendCall = (call: Call): void => {
    call.sent = open;
    send(call.frame);
  };
  const askFor = (some: Sub[]): void => {
    // Without a connection, the next one asks for everything.
    for (let i = 0; open && i < some.length; i += batchItems) {
      const ref = ++refs;
      send(frames.subscribe(ref, some.slice(i, i + batchItems).map((sub) => sub.asked(ref))));
    }
  };

  const request: Link['request'] = (frame, { again, signal } = {}) =>
    new Promise((resolve, reject) => {
      signal?.throwIfAborted();
      if (over()) throw whyOver();
      const ref = ++refs;
      const abort = (): void => call.end(signal!.reason as Error);
      const call: Call = {
        // What is no JSON fails here, not with each connection to come, and what the app changes later stays as it was.
        frame: JSON.parse(JSON.stringify({ ...frame, ref })) as Frame,
        again,
        sent: false,
        end(error, answer) {
          calls.delete(ref);
          signal?.removeEventListener('abort', abort);
          if (answer) resolve(answer);
          else reject(error!);
        },
      };
      signal?.addEventListener('abort', abort);
      calls.set(ref, call);
      sendCall(call);
    });

  const host: Host = {
    ask: (sub) => askFor([sub]),
    request,
    giveUp(why) {
      healthy = false;
      lost(new Error(why));
    },
    forget(sub) {
      const { topic } = sub;
      if (subs.get(topic) !== sub) return;
      subs.delete(topic);
      send(frames.unsubscribe(topic));
      // The server takes that for an end of all that is live on the topic.
      for (const follow of follows) if (follow.enter.topic === topic) send(follow.enter);
    },
  };

  /** Tells what is so while it is not online. */
  const tell = (error?: Error, retryAt?: number): void =>
    status.set({ state: globalThis.navigator?.onLine === false ? 'offline' : 'connecting', error, retryAt, degraded: [] } as Status);

  const off = (): void => {
    attempt++;
    clearTimeout(timer);
    open = welcome = false;
    for (const sub of subs.values()) sub.cutOff();
  };

  const connect = async (): Promise<void> => {
    off();
    const mine = attempt;
    const current = (): boolean => mine === attempt;
    transport = undefined;
    began = now();
    tell(status.get().error);
    timer = setTimeout(() => lost(new Error(`no connection within ${connectTimeout} ms`)), connectTimeout);
    try {
      const hello = frames.hello(options.user, await token());
      const there = !!webSocket(options);
      const { transport: only } = options;
      const doubted = only !== 'websocket' && (only === 'sse' || !there || common.failures);
      const other = doubted ? await (await import('./sse.js')).instead(common, there) : undefined;
      if (!current()) return;
      transport = other ? 'sse' : 'websocket';
      wire = (other ?? dialWebSocket)({
        url,
        hello,
        options,
        open() {
          if (!current()) return;
          open = true;
          askFor([...subs.values()]);
          for (const { enter } of follows) send(enter);
          calls.forEach(sendCall);
        },
        frame: (frame) => current() && take(frame),
        closed(code, reason) {
          if (!current()) return;
          wire = undefined;
          ended(code, reason);
        },
      });
    } catch (why) {
      if (current()) lost(why as Error);
    }
  };

  const take = (frame: Read): void => {
    const { type, topic, ref } = frame;
    const call = calls.get(ref);
    heard = now();
    if (!type) event(frame);
    else if (type === 'batch') {
      const mine = attempt;
      // What was handed over may have cut the connection.
      for (const each of frame.events) if (mine === attempt) event(each);
    } else if (type === 'welcome') {
      lapses = 0;
      if (welcome) return;
      welcome = common.proven = true;
      if (transport === 'websocket') common.failures = 0;
      watch();
      status.set({ state: 'online', transport: transport!, degraded: [] });
    } else if (type === 'token-expiring') {
      // Where there is none now, the next connection asks for one.
      token()
        .then((fresh) => (fresh ? request(frames.auth(fresh)) : undefined))
        .catch(() => {});
    } else if (type === 'error') failed(frame, call);
    else if (call) {
      healthy = true;
      call.end(undefined, frame as Frame);
    } else if (topic?.startsWith('__')) {
      if (type === 'subscribe-denied') live(topic, 'denied', frame.reason);
    } else {
      if (type === 'subscribed') healthy = true;
      subs.get(topic)?.handle(frame);
    }
  };

  const event = (frame: Read): void => {
    const { topic, position } = frame;
    if (topic.startsWith('__')) live(topic, frame.event, frame.data);
    else if (position === undefined) subs.get(topic)?.handle(frame);
    else for (const [name, sub] of subs) if (overlaps(name, topic)) return sub.handle(frame);
  };

  const live = (topic: string, name: string, data: any): void => {
    if (topic === '__system') {
      const { backend } = data;
      const old = status.get();
      const degraded = old.degraded.filter((one) => one !== backend);
      status.set({ ...old, degraded: name === 'degraded' ? [...degraded, backend] : degraded });
    }
    for (const follow of [...follows]) if (follow.topic === topic) follow.take(name, data);
  };

  const failed = (frame: Read, call?: Call): void => {
    const { code, ref } = frame;
    const error = new RealtimeError(code, frame.message, frame.retry_after);
    if (call) return call.end(error);
    // A whole subscribe may have been refused.
    const refused = [...subs.values()].filter((sub) => ref && sub.ref === ref);
    const reason = /^(unavailable|internal|rate_limited)$/.test(code) ? 'INTERNAL_ERROR' : code;
    for (const sub of refused) sub.handle({ ...frame, type: 'subscribe-denied', reason });
    if (!refused.length) status.set({ ...status.get(), error });
  };

  /** Ends the connection when the server was silent for too long. */
  const watch = (): void => {
    const left = heard + silence - now();
    clearTimeout(timer);
    if (left > 0) timer = setTimeout(watch, left);
    else lost(new Error('the server was silent for too long'));
  };

  /** Takes the end of a connection in, by its close code. */
  const ended = (code: number, reason: string): void => {
    const error = new RealtimeError(`close_${code}`, reason || `the connection ended with code ${code}`);
    const expired = code === 4401 && options.token && reason.startsWith('the token has expired');
    const hint = code === 1001 && /^retry=(\d+)$/.exec(reason);
    if (expired && (welcome || !lapses++)) lost(error, welcome ? 0 : undefined);
    else if ([1008, 4401, 4403].includes(code)) close('refused', error);
    else lost(error, hint ? Math.min(+hint[1]!, maxHint) : undefined, code);
  };

  /** The connection is gone: comes back after a pause, in milliseconds. */
  const lost = (error: Error, wait?: number, code?: number): void => {
    if (transport === 'websocket' && !common.proven) common.failures++;
    wire?.close(true);
    wire = undefined;
    if (healthy || now() - began > maxBackoff) pauses.reset();
    healthy = false;
    off();
    for (const call of calls.values()) {
      // It was one of those that were sent; trying again would only end the next connection.
      if (call.sent && code === 1009) call.end(new RealtimeError('too_large', 'the frame is too large for the server'));
      else if (call.sent && !call.again) call.end(new RealtimeError('disconnected', 'the connection broke before the answer'));
      call.sent = false;
    }
    wait ??= pauses.pause(code === 4429);
    tell(error, now() + wait);
    timer = setTimeout(connect, wait);
  };

  /** Comes back now if it waits; asks a connection that is silent, or whose network is another one, whether it is alive. */
  const wake = ({ type }: Event): void => {
    const old = status.get();
    if (type === 'offline') {
      if (old.retryAt) tell(old.error, old.retryAt);
    } else if (old.retryAt) void connect();
    else if (welcome && (type === 'online' || now() - heard > probeTimeout)) {
      // It is answered although there is no such subscription, or else it was silent for too long soon.
      send(frames.unsubscribe('__probe', ++refs));
      heard = Math.min(heard, now() + probeTimeout - silence);
      watch();
    }
  };

  const close: Lane['close'] = (state = 'closed', error) => {
    if (over()) return;
    listening.abort();
    off();
    wire?.close();
    status.set({ state, error, degraded: [] } as Status);
    for (const call of calls.values()) call.end(whyOver());
    next?.close(state, error);
  };

  // Those of the page come up to the window.
  for (const name of ['online', 'offline', 'visibilitychange']) globalThis.addEventListener?.(name, wake, listening);
  void connect();

  return {
    status,
    request,
    send,
    close,
    idle: () => !subs.size && !next,
    open(wanted, handOver) {
      for (const name of subs.keys()) {
        if (!overlaps(name, wanted.topic)) continue;
        if (!next) {
          next = laneOf(common);
          next.status.subscribe(({ state, error }) => state === 'refused' && close(state, error));
        }
        const other = next.open(wanted, handOver);
        return {
          close() {
            other.close();
            if (!next?.idle()) return;
            // Nobody needs it any more.
            next.close();
            next = undefined;
          },
        };
      }
      const sub = subOf(wanted, handOver, host, newPauses());
      subs.set(sub.topic, sub);
      askFor([sub]);
      return sub;
    },
    follow(topic, enter, exit, handOver) {
      const follow: Follow = { topic, enter, take: handOver };
      follows.add(follow);
      send(enter);
      return () => {
        if (follows.delete(follow)) send(exit);
      };
    },
    cut() {
      if (open) lost(new Error('cut'));
      next?.cut();
    },
  };
}
