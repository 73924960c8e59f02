// What may go wrong between tabs and the worker: nothing is lost by it, and who is another user
// shares nothing.
import { createHmac } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { RealtimeError } from '../src/error.js';
import type { Json } from '../src/types.js';
import { serve, until, type Server } from './harness/server.js';
import { fresh, shared } from './harness/shared.js';
import { Browser, type Heard, type Tab } from './harness/tabs.js';

const secret = 'a secret of the tests, long enough for HS256';

function jwt(claims: object): string {
  const part = (value: object): string => Buffer.from(JSON.stringify(value)).toString('base64url');
  const text = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ iat: Math.floor(Date.now() / 1000), exp: Math.floor(Date.now() / 1000) + 600, jti: String(Math.random()), ...claims })}`;
  return `${text}.${createHmac('sha256', secret).update(text).digest('base64url')}`;
}

const seqs = (heard: Heard): number[] => heard.events.map(({ seq }) => seq);
const range = (from: number, to: number): number[] => Array.from({ length: to - from + 1 }, (_, i) => from + i);

describe('a tab that cannot share, or not any more', () => {
  let server: Server;
  beforeAll(async () => {
    server = await serve(shared, ['--drain-timeout', '1s']);
  });
  afterAll(() => server?.stop());
  const publish = (topic: string, count: number): Promise<unknown> =>
    server.sql(`select pgcast.publish($1, 'tick', to_jsonb(i)) from generate_series(1, $2::int) i`, [topic, count]);

  test.each([
    ['the browser refuses the script', { join: () => { throw new Error('SecurityError'); } }],
    ['the script cannot be loaded', { join: (failed: (why: Error) => void) => { setTimeout(failed, 5, new Error('404')); return new MessageChannel().port1; } }],
    ['nobody answers', { join: () => new MessageChannel().port1, within: 50 }],
    ['there are no locks', { hold: () => Promise.reject(new Error('no locks')) }],
  ])('%s: it has a connection of its own', async (_, change) => {
    const browser = new Browser(server);
    const topic = fresh('own');
    const tab = browser.tab({}, change);
    const heard = tab.open({ topic, place: { after: 0 } });
    const answer = tab.link.request({ type: 'publish', topic, event: 'mine', data: 1, key: 'k' }, { again: true });
    expect(await answer).toMatchObject({ type: 'published' });
    await until('it is told', () => heard.events.length === 1);
    expect(tab.link.status.get()).toMatchObject({ state: 'online', transport: 'websocket' });
    expect([browser.links.length, browser.own.length]).toEqual([0, 1]);
    browser.close();
  });

  test('a worker of another version sends it away', async () => {
    const browser = new Browser(server);
    const tab = browser.tab({}, {
      join: () => {
        const { port1, port2 } = new MessageChannel();
        port2.onmessage = () => port2.postMessage({ op: 'gone', why: 'another version' });
        return port1;
      },
    });
    const heard = tab.open({ topic: fresh('version') });
    await until('it has begun', () => heard.start !== undefined);
    expect(browser.own).toHaveLength(1);
    browser.close();
  });

  test('the worker dies under a writer: each tab goes on by itself, and loses nothing', async () => {
    const browser = new Browser(server);
    const topic = fresh('dies');
    const all: Heard[] = [];
    for (let i = 0; i < 3; i++) all.push(browser.tab().open({ topic, place: { after: 0 } }));
    await publish(topic, 50);
    await until('they are told', () => all.every(({ events }) => events.length === 50));
    const writer = publish(topic, 200);
    browser.die();
    await writer;
    for (const heard of all) {
      await until('it is told all', () => heard.last?.after === 250);
      expect(seqs(heard)).toEqual(range(1, 250));
      expect(heard.tab.link.status.get().transport).toBe('websocket');
    }
    expect(browser.own).toHaveLength(3);
    browser.close();
  });

  test('a tab that takes nothing is dropped, and goes on where it was', async () => {
    const browser = new Browser(server);
    const topic = fresh('slow');
    const quick = browser.tab().open({ topic, place: { after: 0 } });
    const tab = browser.tab();
    const slow = tab.open({ topic, place: { after: 0 } });
    await publish(topic, 10);
    await until('both are told', () => quick.events.length === 10 && slow.events.length === 10);
    const port = tab.ports[0]!;
    const hear = port.onmessage!;
    const held: MessageEvent[] = [];
    port.onmessage = (message) => held.push(message);
    await publish(topic, 13_000);
    await until('the other is told', () => quick.events.length === 13_010);
    expect(held.reduce((sum, { data }) => sum + (data.items?.length ?? 0), 0)).toBeLessThan(11_000);
    expect(held.at(-1)!.data).toMatchObject({ op: 'lost' });
    port.onmessage = hear;
    for (const message of held) hear.call(port, message);
    await until('it is told the rest', () => slow.events.length === 13_010);
    expect(seqs(slow)).toEqual(range(1, 13_010));
    expect(browser.own).toHaveLength(0);
    browser.close();
  });

  test('what no port can carry arrives as JSON has it; what JSON has not fails alone', async () => {
    const browser = new Browser(server);
    const topic = fresh('plain');
    const tab = browser.tab();
    const publish = (data: unknown): Promise<unknown> => tab.link.request({ type: 'publish', topic, event: 'x', data, key: fresh('k') }, { again: true });
    const early = publish(new Proxy({ at: new Date(0), run: () => {} }, {})); // asked before there is a connection
    await expect(publish(1n)).rejects.toThrow(TypeError);
    await early;
    const heard = tab.open({ topic, place: { after: 0 } });
    await expect(publish(1n)).rejects.toThrow(TypeError);
    await publish(2);
    await until('it is told', () => heard.events.length === 2);
    expect(heard.events.map(({ data }) => data)).toEqual([{ at: '1970-01-01T00:00:00.000Z' }, 2]);
    expect(browser.own).toHaveLength(0);
    browser.close();
  });

  test('after close nothing is connected any more', async () => {
    const browser = new Browser(server);
    const topic = fresh('closed');
    const tab = browser.tab();
    const heard = tab.open({ topic });
    await until('it has begun', () => heard.start !== undefined);
    tab.close();
    await expect(tab.link.request({ type: 'publish', topic, event: 'x', data: 1, key: 'k' })).rejects.toMatchObject({ code: 'closed' });
    tab.link.open({ topic }, () => {}).close();
    tab.link.send({ type: 'cursor', topic, data: 1 });
    tab.link.follow(`__cursor:${topic}`, { type: 'cursor-snapshot', topic }, { type: 'unsubscribe', topic: `__cursor:${topic}` }, () => {})();
    expect(browser.own).toHaveLength(0);
    browser.close();
  });

  test('presence is there as long as one tab is, and each tab is told who', async () => {
    const browser = new Browser(server);
    const topic = fresh('here');
    const frame = (op: string): { type: string; topic: string; op: string; data?: Json } => ({
      type: 'presence',
      topic,
      op,
      ...(op === 'join' && { data: { id: 'ann', name: 'Ann' } }),
    });
    const follow = (tab: Tab, op: 'join' | 'sync'): { users: Record<string, Json>; end: () => void } => {
      const state = { users: {} as Record<string, Json>, end: (): void => {} };
      state.end = tab.link.follow(`__presence:${topic}`, frame(op), frame(op === 'join' ? 'leave' : 'unsync'), (event, data) => {
        const { joins, leaves } = data as { joins?: Record<string, Json>; leaves?: Record<string, Json> };
        if (event === 'presence_state') state.users = data as Record<string, Json>;
        else if (event === 'presence_diff') {
          const users = { ...state.users };
          for (const key of Object.keys(leaves ?? {})) delete users[key];
          state.users = { ...users, ...joins };
        }
      });
      return state;
    };
    const [a, b, c] = [browser.tab(), browser.tab(), browser.tab()] as const;
    const looker = follow(c, 'sync');
    const [first, second] = [follow(a, 'join'), follow(b, 'join')];
    const answer = await b.link.request(frame('join'), { again: true });
    const { key } = answer.data as { key: string };
    for (const each of [looker, first, second]) await until('all see her', () => Object.keys(each.users).join() === key);
    const outside = new Browser(server);
    const watcher = follow(outside.tab(), 'sync');
    await until('others see her once', () => Object.keys(watcher.users).length === 1);
    first.end();
    a.kill();
    await b.link.request({ ...frame('list') });
    expect(Object.keys(watcher.users)).toHaveLength(1);
    second.end();
    await until('she is gone', () => Object.keys(watcher.users).length === 0 && Object.keys(looker.users).length === 0);
    expect(browser.links).toHaveLength(1);
    browser.close();
    outside.close();
  });
});

describe('users', () => {
  let server: Server;
  beforeAll(async () => {
    server = await serve(shared, ['--drain-timeout', '1s', '--jwt-secret', secret, '--access', 'open']);
  });
  afterAll(() => server?.stop());

  test('only tabs of the same user, with the same rights, share', async () => {
    const browser = new Browser(server);
    const topic = fresh('users');
    const open = (options: object): Heard => browser.tab(options).open({ topic, place: { after: 0 } });
    const ann = open({ token: jwt({ sub: 'ann' }) });
    const again = open({ token: async () => jwt({ sub: 'ann' }) }); // issued later
    const bob = open({ token: jwt({ sub: 'bob' }) });
    const admin = open({ token: jwt({ sub: 'ann', role: 'admin' }) });
    for (const heard of [ann, again, bob, admin]) await until('it has begun', () => heard.start === 0);
    expect(browser.links).toHaveLength(3);
    expect(browser.own).toHaveLength(0);
    browser.close();
  });

  test('when another user has signed in, a tab does not speak for the one before', async () => {
    const browser = new Browser(server);
    const topic = fresh('switch');
    let who = 'ann';
    const one = browser.tab({ token: () => jwt({ sub: who }) }).open({ topic, place: { after: 0 } });
    const two = browser.tab({ token: () => jwt({ sub: 'ann' }) }).open({ topic, place: { after: 0 } });
    for (const heard of [one, two]) await until('it has begun', () => heard.start === 0);
    expect(browser.links).toHaveLength(1);
    who = 'bob';
    browser.links[0]!.cut();
    await until('the first has left', () => browser.own.length + browser.links.length === 2);
    await server.sql(`select pgcast.publish($1, 'tick', '1')`, [topic]);
    for (const heard of [one, two]) await until('it is told', () => heard.events.length === 1);
    expect(two.tab.link.status.get().transport).toBe('shared');
    browser.close();
  });

  test('a request that the server refuses fails with its reason', async () => {
    const browser = new Browser(server);
    const tab = browser.tab({ token: jwt({ sub: 'ann' }) });
    const refused = tab.link.request({ type: 'publish', topic: 'bad"name', event: 'x', data: 1 });
    await expect(refused).rejects.toMatchObject({ name: 'RealtimeError', code: 'invalid_topic' });
    await expect(refused).rejects.toBeInstanceOf(RealtimeError);
    const abort = new AbortController();
    const aborted = tab.link.request({ type: 'history', topic: 'a' }, { signal: abort.signal });
    abort.abort(new Error('not needed'));
    await expect(aborted).rejects.toThrow('not needed');
    browser.close();
  });
});
