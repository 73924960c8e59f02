// Where a WebSocket cannot be had: Server-Sent Events and HTTP, with the same promises.
import { expect, onTestFinished, test } from 'vitest';
import type { Block } from './harness/proxy.js';
import { client, impatient, items, proxied, seqs, state, subscribed, upTo } from './harness/client.js';
import { pause, serve, until } from './harness/server.js';
import { fresh, shared, sql } from './harness/shared.js';
import { cutAt, http, Random, seed } from './harness/steps.js';
import { add, faults, flawless, none, Table, Witness, type Versioned } from './harness/witness.js';
import { secret, sign } from './harness/tokens.js';
import type { Item } from '../src/types.js';

const { WebSocket: _none, ...withoutWebSocket } = impatient;
const sse = { ...withoutWebSocket, transport: 'sse' as const };

const publish = (topic: string, n = 1) =>
  sql(`select pgcast.publish($1, 'n', jsonb_build_object('i', i)) from generate_series(1, $2::int) i`, [topic, n]);

test.runIf(!('WebSocket' in globalThis))('Node without a WebSocket takes SSE by itself', async () => {
  const rt = client(shared.url, { share: false });
  const topic = fresh('node');
  const heard = items(rt.topic(topic));
  await subscribed(heard);
  expect(rt.status.get()).toMatchObject({ state: 'online', transport: 'sse' });
  const { id } = await rt.topic(topic).publish('said', { a: 1 });
  await until('the event', () => seqs(heard).length === 1);
  expect(heard.at(-1)).toMatchObject({ id, event: 'said', data: { a: 1 }, seq: 1 });
});

test.each<Block>(['forbidden', 'html', 'close'])('a WebSocket that is blocked (%s) is done without', async (block) => {
  const proxy = await proxied();
  proxy.block = block;
  const rt = client(proxy.ws, { ...impatient, transport: 'auto', silence: 30_000, connectTimeout: 10_000 });
  const topic = fresh('blocked');
  const heard = items(rt.topic(topic));
  await subscribed(heard);
  expect(rt.status.get()).toMatchObject({ state: 'online', transport: 'sse' });
  await publish(topic, 3);
  await until('the events', () => seqs(heard).length === 3);
  expect(seqs(heard)).toEqual([1, 2, 3]);
});

test('a server that is away is not one that blocks WebSockets', async () => {
  const proxy = await proxied();
  proxy.refuse = true;
  const rt = client(proxy.ws, { ...impatient, transport: 'auto', silence: 30_000 });
  const heard = items(rt.topic(fresh('away')));
  await until('several attempts', () => proxy.connections > 5);
  proxy.refuse = false;
  await subscribed(heard);
  expect(rt.status.get()).toMatchObject({ state: 'online', transport: 'websocket' });
});

test('history, filters, snapshots and what is not to be had over SSE', async () => {
  const topic = fresh('calls');
  await publish(topic, 12);
  const rt = client(shared.url, { ...sse, silence: 30_000 });
  const handle = rt.topic(topic, { filter: { i: 7, 'no "such" member': null }, after: 0 });
  const heard = items(handle);
  await until('the event', () => seqs(heard).length === 1);
  expect(heard.at(-1)).toMatchObject({ data: { i: 7 }, seq: 7 });
  expect((await handle.history()).events.map(({ seq }) => seq)).toEqual([7]);
  const plain = client(shared.url, { ...sse, silence: 30_000 }).topic(topic);
  const page = await plain.history({ after: 3, limit: 4 });
  expect(page).toMatchObject({ tail: 1, head: 12, next: 7 });
  expect(page.events.map(({ seq }) => seq)).toEqual(upTo(7, 4));
  await handle.publish('said', { 'it"s': `a 'quoted' name` });
  const quoted = await plain.history({ filter: { 'it"s': `a 'quoted' name` } });
  expect(quoted.events.map(({ event }) => event)).toEqual(['said']);
  expect(await handle.presence.count()).toBe(0);
  await expect(handle.presence.join({ id: 'ann' })).rejects.toMatchObject({ name: 'RealtimeError', code: 'unsupported' });
  await expect(handle.publish('bad"name', 1)).rejects.toMatchObject({ name: 'RealtimeError', code: 'invalid_event' });
});

test('a token goes in a header, is asked for again, and one that is not valid is refused', async () => {
  const server = await serve(shared, ['--jwt-secret', secret, '--drain-timeout', '1s']);
  onTestFinished(() => server.stop());
  await server.sql(`select pgcast.allow('{subscribe,history,publish}', '*')`);
  let asked = 0;
  const rt = client(server.url, { ...sse, silence: 30_000, token: () => (asked++, sign({ sub: 'ann' }, 4)) });
  const handle = rt.topic('room', { after: 0 });
  const heard = items(handle);
  await subscribed(heard);
  let said = 0;
  for (; asked < 3; said++) {
    await handle.publish('said', said); // past the end of the first token
    await pause(30);
  }
  await until('all of it', () => seqs(heard).length >= said);
  expect(seqs(heard)).toEqual(upTo(said));

  const forged = client(server.url, { ...sse, silence: 30_000, token: sign({ sub: 'ann' }, 60, 'x'.repeat(40)) });
  items(forged.topic('room'));
  await state(forged, 'refused');
  expect(forged.status.get().error?.message).toMatch(/token|sign/);
});

test('40 random cuts of a stream: nothing lost, doubled or reordered, and each publish once', { timeout: 120_000 }, async () => {
  const began = Date.now();
  const random = new Random(seed());
  const prefix = fresh('ssecuts');
  const table = `public.${prefix.replaceAll('.', '_')}`;
  await sql(`create table ${table} (id int generated always as identity primary key, v int not null default 1)`);
  await sql(`insert into ${table} default values`);
  await sql(`select pgcast.attach('${table}', topic => '${prefix}:t:rows')`);
  const proxy = await proxied();
  const rt = client(proxy.url, sse);
  const [a, b, pub] = ['a', 'b', 'pub'].map((name) => rt.topic(`${prefix}:${name}`, { after: 0 }));
  const witness = new Witness();
  for (const topic of [a!, b!, pub!]) topic.on('event', witness.hear);
  const fold = new Table<Versioned>();
  const rows = rt.topic(`${prefix}:t:rows`, { snapshot: true });
  for (const name of ['snapshot', 'event'] as const) rows.on(name, fold.take as (item: Item) => void);
  const deep = rt.topic(`${prefix}:w:*`);
  deep.on('event', witness.hear);
  await until('all subscriptions', () => fold.snapshots && [a!, b!, pub!, deep].every((topic) => topic.place));

  let done = false;
  const published: Promise<{ id: string }>[] = [];
  const writing = (async () => {
    while (!done) {
      await publish(`${prefix}:${random.one(['a', 'b', 'w:1', 'w:2'])}`);
      await sql(random.chance(0.2) ? `insert into ${table} default values` : `update ${table} set v = v + 1 where id = (select id from ${table} order by random() limit 1)`);
      if (random.chance(0.5)) published.push(pub!.publish('said', { n: published.length }));
      await pause(random.below(10));
    }
  })();
  const missed: string[] = [];
  let left: string[] = [];
  for (let i = 0; i < 40; i++) {
    if (!left.length) left = Object.keys(http);
    const name = left.splice(random.below(left.length), 1)[0]!;
    const how = random.one(['reset', 'reset', 'close', 'deaf', 'deaf-down'] as const);
    proxy.patience = 1000; // a publish has only its answer to hear of
    const cut = cutAt(proxy, http[name]!, how, 30_000);
    if (/stream|subscribed/.test(name) && !/part/.test(name)) proxy.cut();
    if (!(await cut)) missed.push(`${name}, ${how}`);
  }
  done = true;
  await writing;
  const ids = new Set((await Promise.all(published)).map(({ id }) => id));
  const topics = [a!.name, b!.name, pub!.name, `${prefix}:w:1`, `${prefix}:w:2`];
  const want = async () => (await sql<Versioned>(`select id, v from ${table} order by id`)).map(({ id, v }) => `${id} ${v}`).join();
  const held = () => [...fold.rows.values()].sort((x, y) => x.id - y.id).map(({ id, v }) => `${id} ${v}`).join();
  const total = none();
  const settled = async () => {
    const all = await Promise.all(topics.map((topic) => witness.compare(topic)));
    Object.assign(total, none());
    for (const each of all) add(total, each);
    return total.lost === 0 && held() === (await want());
  };
  await until('everything to come', settled, 20_000).catch((err: Error) => console.error(err.message));
  console.log(`40 cuts in ${((Date.now() - began) / 1000).toFixed(1)} s: ${JSON.stringify(total)}, ${fold.changes} changes of rows, ${published.length} publishes`);
  expect(faults(total)).toEqual(flawless);
  expect({ lost: fold.lost, doubled: fold.doubled, reordered: fold.reordered }).toEqual({ lost: 0, doubled: 0, reordered: 0 });
  expect(held()).toBe(await want());
  const said = await sql<{ n: number }>(`select (data->>'n')::int as n from pgcast.history where topic = $1 order by 1`, [pub!.name]);
  expect(said.map(({ n }) => n)).toEqual(upTo(published.length - 1, 0));
  expect(ids.size).toBe(published.length);
  expect(missed).toEqual([]);
});
