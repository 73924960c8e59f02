// Who somebody is: tokens that end, are refused, or are not enough.
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { RealtimeError } from '../src/error.js';
import { client, impatient, items, patient, proxied, seqs, state, subscribed, upTo } from './harness/client.js';
import { pause, serve, until, type Server } from './harness/server.js';
import { fresh, shared } from './harness/shared.js';
import { secret, sign } from './harness/tokens.js';

let server: Server;

beforeAll(async () => {
  server = await serve(shared, ['--jwt-secret', secret]);
  // Everybody who is known may connect, but for those who are banned; members may do all in rooms.
  await server.sql(`delete from pgcast.rule`);
  await server.sql(`select pgcast.allow('{connect}', '**', claims => '{"banned": false}')`);
  await server.sql(`select pgcast.allow('{subscribe,history,snapshot,publish,presence,cursor}', 'room.**', role => 'member'),
                           pgcast.allow('{subscribe,history,snapshot,publish,presence,cursor}', '*', role => 'member')`);
  await until('the rules', async () => {
    const answer = await fetch(`${server.url}/topics/x/events`, { headers: { Authorization: `Bearer ${sign(ann)}` } });
    return answer.ok;
  });
});
afterAll(() => server?.stop());

const ann = { sub: 'ann', role: 'member', banned: false };

/** Publishes from 1 on until told to stop, and gives how many. */
async function write(topic: string, done: () => boolean): Promise<number> {
  for (let n = 1; ; n++) {
    await server.sql(`select pgcast.publish($1, 'n', jsonb_build_object('n', $2::int))`, [topic, n]);
    if (done()) return n;
    await pause(10);
  }
}

test('a token is asked for again before its end, and the session goes on as it is', async () => {
  const topic = fresh('renewed');
  const proxy = await proxied(server);
  let asked = 0;
  const life = 8; // seconds, of which the last quarter is for getting another
  const rt = client(proxy.ws, { ...patient, transport: 'websocket', token: async () => (asked++, sign(ann, life)) });
  const heard = items(rt.topic(topic, { after: 0 }));
  await subscribed(heard);
  const end = Date.now() + life * 1000;
  const last = await write(topic, () => Date.now() > end); // past the end of the first
  await until('everything', () => seqs(heard).at(-1) === last);
  expect(seqs(heard)).toEqual(upTo(last));
  expect(asked).toBeGreaterThan(1);
  expect(proxy.connections).toBe(1);
  expect(heard.filter(({ type }) => type !== 'event')).toHaveLength(1);
});

test('where no new one was had in time, it comes back with a new one and resumes', async () => {
  const topic = fresh('expired');
  const proxy = await proxied(server);
  let asked = 0;
  const first = sign(ann, 1.5);
  // For as long as the first connection is there, the app has no other.
  const rt = client(proxy.ws, { ...patient, transport: 'websocket', token: () => (asked++, proxy.connections > 1 ? sign(ann) : first) });
  const heard = items(rt.topic(topic, { after: 0 }));
  const last = await write(topic, () => proxy.connections > 1);
  await until('everything', () => seqs(heard).at(-1) === last);
  expect(seqs(heard)).toEqual(upTo(last));
  expect(asked).toBeGreaterThan(1);
  expect(heard.filter(({ type }) => type === 'subscribed')).toMatchObject([{ seq: 0 }, { resumed: true }]);
});

test('a token that has expired already is changed for a new one, once', async () => {
  const topic = fresh('late');
  let asked = 0;
  const rt = client(server.ws, { ...impatient, silence: 30_000, token: () => sign(ann, asked++ ? 600 : -10) });
  await subscribed(items(rt.topic(topic)));
  expect(asked).toBe(2);

  const stale = client(server.ws, { ...impatient, token: () => sign(ann, -10) });
  const heard = items(stale.topic(topic));
  await state(stale, 'refused');
  expect(stale.status.get().error?.message).toMatch(/expired/);
  expect(heard).toEqual([]);
});

test.each([
  ['that somebody else signed', () => sign(ann, 600, 'another secret, that the server does not know'), /sign|token/],
  ['that is none', () => 'rubbish', /token/],
  ['of somebody who may not connect', () => sign({ ...ann, banned: true }), /connect|allowed|may not/],
])('a token %s is refused for good', async (_, token, why) => {
  const proxy = await proxied(server);
  const rt = client(proxy.ws, { ...impatient, silence: 30_000, token });
  const heard = items(rt.topic(fresh('refused')));
  await state(rt, 'refused');
  expect(rt.status.get()).toMatchObject({ state: 'refused' });
  expect(rt.status.get().error?.message).toMatch(why);
  expect(rt.status.get().retryAt).toBeUndefined();
  const connections = proxy.connections;
  await expect(rt.topic('x').publish('e', null)).rejects.toThrow();
  // Somebody else comes and goes meanwhile.
  const other = client(server.ws, { ...impatient, silence: 30_000, token: () => sign(ann) });
  await subscribed(items(other.topic(fresh('other'))));
  expect(proxy.connections).toBe(connections);
  expect(heard).toEqual([]);
});

test('without a token where one is needed: refused, and it says so', async () => {
  const rt = client(server.ws, { ...impatient, silence: 30_000 });
  items(rt.topic(fresh('nobody')));
  await state(rt, 'refused');
  expect(rt.status.get().error).toBeInstanceOf(Error);
});

test('a token that is longer than a first hello may be', async () => {
  const rt = client(server.ws, { ...impatient, silence: 30_000, token: () => sign({ ...ann, more: 'x'.repeat(4500) }) });
  const topic = rt.topic(fresh('long'));
  await subscribed(items(topic));
  await topic.publish('e', 1);
});

test('what is not allowed is denied, and nothing else is disturbed', async () => {
  const rt = client(server.ws, { ...impatient, silence: 30_000, token: () => sign(ann) });
  const secretTopic = rt.topic('secret:x');
  const denied = items(secretTopic);
  const open = rt.topic(fresh('open'));
  const heard = items(open);
  await until('the answers', () => denied.length && heard.length);
  expect(denied).toMatchObject([{ type: 'denied', topic: 'secret:x', reason: 'FORBIDDEN' }]);
  await expect(secretTopic.publish('e', 1)).rejects.toMatchObject({ name: 'RealtimeError', code: 'forbidden' } satisfies Partial<RealtimeError>);
  await expect(secretTopic.history()).rejects.toMatchObject({ code: 'forbidden' });
  await open.publish('e', 1);
  await until('the event', () => seqs(heard).length === 1);
});

test('a right that is lost ends its subscription alone', async () => {
  const [mine, other] = [fresh('mine'), fresh('others')];
  const [{ allow }] = (await server.sql(`select pgcast.allow('{subscribe,history}', 'private:${mine}')`)) as [{ allow: number }];
  const rt = client(server.ws, { ...impatient, silence: 30_000, token: () => sign(ann) });
  const heard = items(rt.topic(`private:${mine}`));
  const kept = items(rt.topic(other));
  await Promise.all([subscribed(heard), subscribed(kept)]);
  await server.sql(`delete from pgcast.rule where id = $1`, [allow]);
  await until('the denial', () => heard.some(({ type }) => type === 'denied'));
  await server.sql(`select pgcast.publish($1, 'e'), pgcast.publish($2, 'e')`, [`private:${mine}`, other]);
  await until('what is still allowed', () => seqs(kept).length === 1);
  expect(seqs(heard)).toEqual([]);
  expect(rt.status.get().state).toBe('online');
});
