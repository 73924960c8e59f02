import type { Link } from './link.js';
import { Store } from './store.js';
import type { Cursors, Presence } from './types.js';

/** A store whose other half, in live.ts, is loaded when it is used first. */
function lazy(kind: 'Here' | 'Pointers', methods: string[], link: Link, topic: string): Store<ReadonlyMap<string, any>> {
  let half: Promise<unknown> | undefined;
  const load = (): Promise<unknown> =>
    (half ??= import('./live.js').then((live) => new (live[kind] as new (...args: unknown[]) => unknown)(store, link, topic)));
  const call = (method: string, ...args: unknown[]): Promise<unknown> =>
    load().then((made) => (made as Record<string, (...args: unknown[]) => unknown>)[method]!(...args));
  const store = new Store<ReadonlyMap<string, any>>(new Map(), () => {
    void call('watch', true);
    return () => void call('watch', false);
  });
  const more: Record<string, unknown> = { close: () => half && call('close') };
  for (const method of methods) more[method] = (...args: unknown[]) => call(method, ...args);
  return Object.assign(store, more);
}

type Closing = { close(): void };

export const presenceOf = (link: Link, topic: string): Presence & Closing =>
  lazy('Here', ['join', 'leave', 'count'], link, topic) as unknown as Presence & Closing;

export const cursorsOf = (link: Link, topic: string): Cursors & Closing =>
  lazy('Pointers', ['move', 'leave'], link, topic) as unknown as Cursors & Closing;
