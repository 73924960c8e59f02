import type { Link } from './link.js';
import { storeOf } from './store.js';

type Methods = Record<string, (...args: unknown[]) => unknown>;

/** A store of presence or cursors, whose other half, in live.ts, is loaded when it is used first. */
export function lazy<T>(kind: 'Here' | 'Pointers', methods: string[], link: Link, topic: string): T & { close(): void } {
  let half: Promise<Methods> | undefined;
  const call = (method: string, ...args: unknown[]): Promise<unknown> =>
    (half ??= import('./live.js').then((live) => new live[kind](store, link, topic) as unknown as Methods)).then((made) =>
      made[method]!(...args),
    );
  const store = storeOf<ReadonlyMap<string, any>>(new Map(), () => {
    void call('watch', true);
    return () => void call('watch', false);
  });
  const more: Methods = { close: () => half && call('close') };
  for (const method of methods) more[method] = (...args) => call(method, ...args);
  return Object.assign(store, more) as unknown as T & { close(): void };
}
