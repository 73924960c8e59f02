import { RealtimeError } from './error.js';
import { following } from './following.js';
import * as frames from './frames.js';
import { lazy } from './lazy.js';
import type { Link, Subscription } from './link.js';
import { isPattern } from './names.js';
import type { Saver } from './places.js';
import { queueOf, type Queue } from './queue.js';
import { report, safely } from './store.js';
import type { Read } from './subscription.js';
import type { Cursors, Item, Place, Presence, Topic, TopicOptions } from './types.js';

const notices = ['subscribed', 'snapshot', 'gap', 'reset', 'denied', 'event'];

type Run = (item: Item) => void;

/**
 * The implementation of Topic; throws where options are not right. buffer: see ConnectOptions; saver keeps its place, if there is one;
 * left runs when it is closed.
 */
export function topicOf(
  link: Link,
  name: string,
  options: TopicOptions,
  buffer: number,
  saver: Promise<Saver> | undefined,
  left: () => void,
): Topic<any> {
  const { after, snapshot, filter } = options;
  // After the last item that was given to handlers and queues.
  let at: Place | undefined = typeof after === 'number' ? { after } : after;
  if (!/^[ !#-[\]-~]{1,256}$/.test(name)) {
    throw new RealtimeError('invalid_topic', `${JSON.stringify(name)} is not a topic: 1 to 256 printable ASCII characters without " and \\`);
  }
  if (at && !(Number.isSafeInteger(at.after) && at.after >= 0)) {
    throw new RealtimeError('invalid', `after is ${at.after}; it must be a whole number from 0`);
  }
  if (snapshot && (at || isPattern(name))) {
    throw new RealtimeError('invalid', `${name}: snapshot goes with no pattern, and with no after`);
  }
  const handlers = new Set<[name: string, run: Run]>();
  const queues = new Set<Queue<Item>>();
  const presence = lazy<Presence>('Here', ['join', 'leave', 'count'], link, name);
  const cursors = lazy<Cursors>('Pointers', ['move', 'leave'], link, name);
  let listeners = 0;
  let sub: Subscription | undefined;
  let paused = false; // until every iteration has taken what waits for it
  let denied = false;
  let closed = false;
  let refused: Error | undefined; // why the connection is over for good
  let storage = at || snapshot ? undefined : saver; // where its place is to be read yet
  let recalling = false;
  let kept: Saver | undefined; // where it is kept then

  const check = (): void => {
    // Who listens to a connection that was refused hears nothing; its status says why.
    if (closed && !refused) throw new RealtimeError('closed', `${name} was closed: get it anew with topic()`);
  };
  const listen = (): void => {
    listeners++;
    denied = false;
    open();
  };
  const leave = (): void => {
    // Whoever listens again at once finds the subscription as it was.
    if (!--listeners) queueMicrotask(() => listeners || stop());
  };

  const open = (): void => {
    if (sub || recalling || paused || denied || closed || !listeners) return;
    if (storage) void recall(storage);
    else sub = link.open({ topic: name, place: at, snapshot, filter }, take);
  };
  /** Goes on from the place that is kept. */
  const recall = async (from: Promise<Saver>): Promise<void> => {
    storage = undefined;
    recalling = true;
    try {
      kept = await from;
      at = await kept.get(name);
    } catch (error) {
      report(error);
    }
    recalling = false;
    open();
  };
  const stop = (): void => {
    sub?.close();
    sub = undefined;
  };

  const call = (to: string, item: Item): void => {
    for (const [heard, run] of [...handlers]) if (heard === to) safely(run, item);
  };
  const take = (item: Item): void => {
    const { type } = item;
    const before = at;
    at = following(at, item, name, snapshot);
    if (type === 'denied') {
      denied = true;
      sub = undefined;
    }
    for (const queue of queues) queue.push(item, before);
    call(type, item);
    if (type === 'event' && !notices.includes(item.event)) call(item.event, item);
    if (denied) finish();
    // Not amid a snapshot, which would begin anew.
    if (at && sub && longest().length >= buffer) {
      paused = true;
      stop();
    }
    save();
  };

  /** What waits for the slowest iteration. */
  const longest = (): Queue<Item>['waiting'] => {
    let most: Queue<Item>['waiting'] = [];
    for (const { waiting } of queues) if (waiting.length > most.length) most = waiting;
    return most;
  };
  const place = (): Place | undefined => {
    // Each gets all that came since it began: of the longest the oldest is the oldest of all.
    const [oldest] = longest();
    return oldest ? oldest.before : at;
  };
  const save = (): void => {
    if (!closed) kept?.set(name, place);
  };
  const moved = (): void => {
    save();
    if (!paused || longest().length) return;
    paused = false;
    open();
  };

  /** Iterations end, behind what waits for them. */
  const finish = (error?: Error): void => {
    for (const queue of queues) {
      queue.end(error);
      listeners--;
    }
    queues.clear();
  };
  const end = (error?: Error): void => {
    save();
    closed = true;
    refused = error;
    stop();
    finish(error);
    queueMicrotask(() => unwatch());
  };

  const items = (): Queue<Item> => {
    check();
    const queue = queueOf<Item>(moved, () => {
      if (listeners < 2 && longest().length) {
        // Nobody else listens: whoever does next gets what this iteration has not taken.
        at = place();
        stop();
      }
      if (!queues.delete(queue)) return;
      moved();
      leave();
    });
    queues.add(queue);
    if (refused) queue.end(refused);
    listen();
    return queue;
  };

  const unwatch = link.status.subscribe(({ state, error }) => {
    if (/closed|refused/.test(state)) end(error);
  });

  return {
    name,
    options,
    status: link.status,
    presence,
    cursors,
    get place() {
      return place();
    },
    on(to: string, run: Run) {
      check();
      const entry: [string, Run] = [to, run];
      handlers.add(entry);
      listen();
      return () => {
        if (handlers.delete(entry)) leave();
      };
    },
    [Symbol.asyncIterator]: items,
    events() {
      const queue = items();
      const { next } = queue;
      queue.next = async () => {
        for (;;) {
          const result = await next();
          if (result.done || result.value.type === 'event') return result;
        }
      };
      return queue;
    },
    refresh() {
      if (!snapshot) return;
      at = undefined;
      stop();
      open();
    },
    async publish(event: string, data: unknown, { key = uuid(), signal } = {}) {
      const { id } = await link.request(frames.publish(name, event, data, key), { again: true, signal });
      return { id };
    },
    async history({ after: from = 0, limit, filter: only = filter, signal } = {}) {
      const { events, tail, head, next }: Read = await link.request(frames.history(name, from, limit, only), { again: true, signal });
      const read = events.map((each: Read) => frames.eventItem(each));
      return { events: read, tail, head, next: next ?? read.at(-1)?.place.after ?? Math.max(from, head) };
    },
    close() {
      if (closed) return;
      end();
      presence.close();
      cursors.close();
      left();
    },
  } as Topic<any>;
}

/** A key that nobody else has. Pages that were not loaded safely have no randomUUID. */
const uuid = (): string => crypto.getRandomValues(new Uint32Array(4)).join('-');
