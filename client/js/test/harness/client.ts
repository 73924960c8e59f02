// Clients, proxies and servers that end with their test.
import { onTestFinished } from 'vitest';
import WebSocket from 'ws';
import { connect } from '../../src/index.js';
import type { ConnectOptions, Item, Realtime, State, Topic } from '../../src/types.js';
import { Proxy } from './proxy.js';
import { serve, until, type Server } from './server.js';
import { shared } from './shared.js';

/** Impatient, so that half-open connections are noticed in tests' time. */
export const impatient = {
  WebSocket: WebSocket as unknown as typeof globalThis.WebSocket,
  transport: 'websocket',
  share: false,
  silence: 1500,
  connectTimeout: 1500,
  minBackoff: 5,
  maxBackoff: 80,
} as const satisfies ConnectOptions;

/** As apps have it, but for where Node's WebSocket comes from. */
export const patient = {
  WebSocket: WebSocket as unknown as typeof globalThis.WebSocket,
  share: false,
} as const satisfies ConnectOptions;

/** A client that is closed at the end of the test. */
export function client(url: string, options: ConnectOptions = patient): Realtime {
  const rt = connect(url, options);
  onTestFinished(() => rt.close());
  return rt;
}

/** A proxy that is closed at the end of the test. */
export async function proxied(server: { url: string } = shared): Promise<Proxy> {
  const proxy = await Proxy.to(server);
  onTestFinished(() => proxy.close());
  return proxy;
}

/** A server of the test's own, on a database of its own. */
export async function own(...flags: string[]): Promise<Server> {
  const server = await serve(shared, flags);
  onTestFinished(() => server.stop());
  return server;
}

/** Everything that a topic tells from now on, in order. */
export function items(topic: Topic): Item[] {
  const all: Item[] = [];
  for (const name of ['event', 'subscribed', 'snapshot', 'gap', 'reset', 'denied'] as const) {
    topic.on(name, (item: Item) => void all.push(item));
  }
  return all;
}

/** The seqs of the events among items. */
export function seqs(all: readonly Item[]): number[] {
  return all.flatMap((item) => (item.type === 'event' ? [item.seq] : []));
}

/** 1, 2, 3 … n, or from another number on. */
export function upTo(n: number, from = 1): number[] {
  return Array.from({ length: n - from + 1 }, (_, i) => from + i);
}

/** Waits until a topic's subscription has begun. */
export async function subscribed(all: readonly Item[]): Promise<void> {
  await until('subscribed', () => all.some(({ type }) => type === 'subscribed'));
}

/** Waits until the connection does something; the states that it was in meanwhile are not asked for. */
export async function state(rt: Realtime, want: State): Promise<void> {
  await until(() => `state ${want}, it is ${rt.status.get().state}: ${rt.status.get().error?.message}`, () => rt.status.get().state === want);
}
