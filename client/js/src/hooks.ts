import { safely } from './store.js';
import type { EventItem, EventMap, Heard, Json, Notices, Readable, Topic } from './types.js';

// What the hooks of all frameworks are made of: plain stores.

/** Who is here, and this session's part in it. */
export interface Present<User = Record<string, unknown>> {
  /** By key. Each user is there once. */
  readonly users: ReadonlyMap<string, User>;
  /** The key of this session's own user, after it has joined. */
  readonly me?: string;
  /** Why it could not join. */
  readonly error?: Error;
}

/** At most so often are listeners told of events, in milliseconds: once a frame. */
const frame = 16;

/** A store that is at work while somebody listens to it. start gives what ends it, and says by changed that get gives something else. */
export function working<T>(get: () => T, start: (changed: () => void) => () => void): Readable<T> {
  const listeners = new Set<(value: T) => void>();
  let end: (() => void) | undefined;
  const changed = (): void => {
    for (const run of [...listeners]) safely(run, get());
  };
  return {
    get,
    subscribe(run) {
      const listener = (value: T): void => run(value); // the same function may listen twice
      end ??= start(changed);
      listeners.add(listener);
      safely(run, get());
      return () => {
        if (!listeners.delete(listener) || listeners.size) return;
        // Whoever goes in the same breath as another one comes costs no subscription.
        queueMicrotask(() => {
          if (listeners.size) return;
          end?.();
          end = undefined;
        });
      };
    },
  };
}

/**
 * The newest events of a topic, oldest first, at most limit, from when somebody listens. It tells of several at
 * once, and not more often than a screen can show. After a gap or a reset it begins anew.
 */
export function lastEvents<E extends EventMap>(topic: Topic<E>, limit = 100): Readable<readonly EventItem<E>[]> {
  if (!(limit >= 1)) throw new RangeError(`the last events of ${topic.name}: ${limit} is not a number of events, give one from 1 on`);
  let events: EventItem<E>[] = [];
  let view: readonly EventItem<E>[] | undefined;
  let told = 0;
  let telling = false;
  return working(
    () => (view ??= events.slice(-limit)),
    (changed) => {
      let ended = false;
      const tell = (): void => {
        telling = false;
        told = Date.now();
        if (!ended) changed();
      };
      const became = (): void => {
        view = undefined;
        if (telling) return;
        telling = true;
        const pause = told + frame - Date.now();
        if (pause > 0) setTimeout(tell, pause);
        else queueMicrotask(tell);
      };
      const anew = (): void => {
        events = [];
        became();
      };
      const ends = [
        topic.on('event', (event) => {
          events.push(event);
          if (events.length >= 2 * limit) events = events.slice(-limit);
          became();
        }),
        topic.on('gap', anew),
        topic.on('reset', anew),
      ];
      return () => {
        ended = true;
        for (const end of ends) end();
      };
    },
  );
}

/** How many have joined a topic's presence by present; it is left with the last of them. */
const joined = new WeakMap<Topic<any>, number>();

/**
 * Who is here on a topic. With join, an object of what to say of this user, or true, it is here itself while
 * somebody listens.
 */
export function present<User = Record<string, unknown>>(topic: Topic<any>, join?: Record<string, Json> | boolean): Readable<Present<User>> {
  let own: { me?: string; error?: Error } = {};
  let view: Present<User> | undefined;
  return working(
    () => (view ??= { users: topic.presence.get() as unknown as ReadonlyMap<string, User>, ...own }),
    (changed) => {
      let ended = false;
      const became = (what: typeof own): void => {
        own = what;
        view = undefined;
        if (!ended) changed();
      };
      const end = topic.presence.subscribe(() => {
        view = undefined;
        changed();
      });
      if (join) {
        joined.set(topic, (joined.get(topic) ?? 0) + 1);
        topic.presence.join(...(join === true ? [] : [join])).then(
          (me) => became({ me }),
          (error: Error) => became({ error }),
        );
      }
      return () => {
        ended = true;
        end();
        if (!join) return;
        const others = (joined.get(topic) ?? 1) - 1;
        joined.set(topic, others);
        own = {};
        // There is nobody to be told of a failure; the server ends it with the session at the latest.
        if (!others) topic.presence.leave().catch(() => {});
      };
    },
  );
}

/** What useTopic listens to: handlers by the name of an event or notice. */
export type TopicHandlers<E extends EventMap> = string extends keyof E
  ? { [name: string]: (heard: any) => void }
  : { [Name in (keyof E & string) | keyof Notices]?: (heard: Heard<E, Name>) => void };

/** Listens with handlers that may become others meanwhile; which names there are counts at the beginning. */
export function listen<E extends EventMap>(topic: Topic<E>, names: readonly string[], handlers: () => TopicHandlers<E>): () => void {
  const ends = names.map((name) =>
    topic.on(name as keyof E & string, (heard) => (handlers() as Record<string, ((heard: unknown) => void) | undefined>)[name]?.(heard)),
  );
  return () => {
    for (const end of ends) end();
  };
}
