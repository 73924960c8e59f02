// Places: gap, reset, holes, and going on where an earlier page was.
import { IDBFactory } from 'fake-indexeddb';
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest';
import { indexedDBStorage, memoryStorage } from '../src/storage.js';
import type { Item, Place, PlaceStorage } from '../src/types.js';
import { client, impatient, items, patient, proxied, seqs, subscribed, upTo } from './harness/client.js';
import { pause, serve, until, type Server } from './harness/server.js';
import { fresh, shared, sql } from './harness/shared.js';
import { Table, type Versioned } from './harness/witness.js';

/** A server of this file's own: it trims often, and its database is put back. */
let server: Server;
beforeAll(async () => {
  server = await serve(shared, ['--retention-every', '1s', '--drain-timeout', '1s']);
  await server.sql(`select pgcast.retain('trimmed:*', max_count => 5)`);
});
afterAll(() => server?.stop());

/** Adds events 1 to n to a topic, in order. */
async function publish(topic: string, n: number, to: { sql: Server['sql'] } = { sql }): Promise<void> {
  await to.sql(`select pgcast.publish($1, 'n', jsonb_build_object('i', i)) from generate_series(1, $2::int) i`, [topic, n]);
}

async function head(topic: string, n: number, of: { sql: Server['sql'] } = { sql }): Promise<void> {
  await until(`${topic} to have ${n} events`, async () => {
    const rows = await of.sql<{ head: number }>('select max(seq) as head from pgcast.history where topic = $1', [topic]);
    return rows[0]!.head === n;
  });
}

test('after 0 is everything, a seq is what follows, nothing is what comes from now on', async () => {
  const topic = fresh('after');
  await publish(topic, 5);
  await head(topic, 5);
  const [all, some, none] = [{ after: 0 }, { after: 3 }, {}].map((options) => items(client(shared.ws).topic(topic, options)));
  await Promise.all([all!, some!, none!].map(subscribed));
  await publish(topic, 2);
  await until('the events', () => [all!, some!, none!].every((list) => seqs(list).at(-1) === 7));
  expect([all!, some!, none!].map(seqs)).toEqual([upTo(7), upTo(7, 4), upTo(7, 6)]);
  expect([all!, some!, none!].map((list) => list[0])).toMatchObject([{ seq: 0 }, { seq: 3 }, { seq: 5 }]);
});

test('a pattern brings what it selects, by position, and resumes', async () => {
  const prefix = fresh('pattern');
  const proxy = await proxied();
  const all = items(client(proxy.ws, impatient).topic(`${prefix}:*`));
  await subscribed(all);
  for (let i = 0; i < 20; i++) {
    await publish(`${prefix}:${i % 3}`, 3);
    if (i % 5 === 4) proxy.cut();
  }
  await until('60 events', () => seqs(all).length >= 60);
  const events = all.filter((item) => item.type === 'event');
  const positions = events.map(({ position }) => position!);
  expect(positions).toEqual([...positions].sort((a, b) => a - b));
  for (const n of [0, 1, 2]) {
    const own = events.filter(({ topic }) => topic === `${prefix}:${n}`);
    expect(own.map(({ seq }) => seq)).toEqual(upTo(own.length));
  }
  expect(new Set(positions).size).toBe(60);
});

/** Waits until a topic has been trimmed to its newest five. */
async function trimmed(topic: string, head: number): Promise<void> {
  await until(`${topic} to be trimmed`, async () => {
    const [row] = await server.sql<{ n: number; head: number }>(`select count(*) as n, max(seq) as head from pgcast.history where topic = $1`, [topic]);
    return row!.n === 5 && row!.head === head;
  });
}

test('what was trimmed is told as a gap: after being away, and at the beginning', async () => {
  const topic = `trimmed:${fresh('gap')}`;
  const proxy = await proxied(server);
  const heard = items(client(proxy.ws, { ...impatient, silence: 60_000, connectTimeout: 30_000 }).topic(topic, { after: 0 }));
  await publish(topic, 5, server);
  await until('five events', () => seqs(heard).length === 5);

  proxy.unlisten();
  proxy.cut();
  await publish(topic, 95, server);
  await trimmed(topic, 100);
  await proxy.listen();
  await until('the newest', () => seqs(heard).at(-1) === 100);
  expect(seqs(heard)).toEqual([...upTo(5), ...upTo(100, 96)]);
  const at = heard.findIndex(({ type }) => type === 'gap');
  expect(heard[at]).toMatchObject({ type: 'gap', topic, after: 5, tail: 96, head: 100 });
  expect(heard[at + 1]).toMatchObject({ type: 'event', seq: 96 });
  expect(heard.filter(({ type }) => type === 'gap')).toHaveLength(1);

  const late = items(client(server.ws).topic(topic, { after: 20 }));
  await until('the newest', () => seqs(late).at(-1) === 100);
  expect(late.map(({ type }) => type)).toEqual(['subscribed', 'gap', ...upTo(5).map(() => 'event')]);
  expect(late[1]).toMatchObject({ after: 20, tail: 96 });
});

test('a place with the id of another history is reset, and the stream goes on at the head', async () => {
  const topic = fresh('reset');
  await publish(topic, 7);
  await head(topic, 7);
  const handle = client(shared.ws).topic(topic, { after: { after: 4, id: 'ffff-1' } });
  const heard = items(handle);
  await until('the reset', () => heard.some(({ type }) => type === 'reset'));
  expect(handle.place).toMatchObject({ after: 7 });
  await publish(topic, 2);
  await until('what follows', () => seqs(heard).length === 2);
  expect(heard.map(({ type }) => type)).toEqual(['subscribed', 'reset', 'event', 'event']);
  expect(heard[1]).toMatchObject({ head: 7 });
  expect(seqs(heard)).toEqual([8, 9]);
});

test('after a restore from a backup: reset, and a snapshot anew', async () => {
  await server.sql(`create table public.notes (id int primary key, v int not null default 1)`);
  await server.sql(`select pgcast.attach('public.notes', topic => 'notes')`);
  await server.sql('insert into public.notes (id) select generate_series(1, 3)');
  const rt = client(server.ws, { ...impatient, silence: 60_000, connectTimeout: 30_000 });
  const table = new Table<Versioned>();
  const [live, plain] = [rt.topic('notes', { snapshot: true }), rt.topic('log', { after: 0 })];
  const snapshots = items(live);
  const told = items(plain);
  for (const name of ['snapshot', 'event'] as const) live.on(name, table.take as (item: Item) => void);
  await until('the snapshot', () => table.snapshots === 1);
  await publish('log', 2, server);
  await until('what is in the backup', () => seqs(told).length === 2);

  // The backup: the database as it is now. Then come writes that the restore takes back.
  await server.end('SIGTERM');
  const name = new URL(server.databaseURL).pathname.slice(1);
  await sql(`select pg_terminate_backend(pid) from pg_stat_activity where datname = $1`, [name]);
  await until('nobody to be in the database', async () => !(await sql('select from pg_stat_activity where datname = $1', [name])).length);
  await sql(`create database ${name}_backup template ${name}`);
  await server.start();
  await server.sql('insert into public.notes (id) values (4), (5)');
  await publish('log', 3, server);
  await until('what is in no backup', () => seqs(told).length === 5 && table.rows.size === 5);

  await server.end('SIGTERM');
  await sql(`select pg_terminate_backend(pid) from pg_stat_activity where datname = $1`, [name]);
  await sql(`alter database ${name} rename to ${name}_lost`);
  await sql(`alter database ${name}_backup rename to ${name}`);
  await server.start();
  await until('both resets', () => told.some(({ type }) => type === 'reset') && table.snapshots === 2);
  await server.sql('insert into public.notes (id) values (6)');
  await publish('log', 1, server);
  await until('what follows', () => table.rows.has(6) && seqs(told).length === 6);

  expect([...table.rows.keys()].sort()).toEqual([1, 2, 3, 6]);
  expect(told.filter(({ type }) => type !== 'subscribed').map(({ type }) => type)).toEqual([...upTo(5).map(() => 'event'), 'reset', 'event']);
  expect(seqs(told)).toEqual([1, 2, 3, 4, 5, 3]); // of the new history
  const order = snapshots.map(({ type }) => type);
  expect(order.lastIndexOf('snapshot')).toBeGreaterThan(order.indexOf('reset'));
  const again = snapshots.slice(order.indexOf('reset')).find(({ type }) => type === 'snapshot');
  expect(again).toMatchObject({ first: true });
});

test('a hole is filled by history before the next event is handed over', async () => {
  const topic = fresh('hole');
  const proxy = await proxied();
  const heard = items(client(proxy.ws, { ...impatient, silence: 60_000, connectTimeout: 30_000 }).topic(topic));
  await subscribed(heard);
  let swallowed = 0;
  let asked = 0;
  proxy.rule = ({ up, frame }) => {
    if (up && frame?.type === 'history') asked++;
    const events = frame?.type === 'batch' ? frame.events : frame && !frame.type ? [frame] : [];
    if (up || !events.some((event: { seq: number }) => event.seq % 4 === 2)) return undefined;
    swallowed++;
    return 'swallow';
  };
  for (let i = 0; i < 40; i++) {
    await publish(topic, 1);
    if (i % 3) await pause(2); // so that not all of it comes in one frame
  }
  proxy.rule = (seen) => (seen.up && seen.frame?.type === 'history' ? void asked++ : undefined);
  await publish(topic, 1); // shows that the last were swallowed, if they were
  await until('all events', () => seqs(heard).length >= 41);
  expect(seqs(heard)).toEqual(upTo(41));
  expect(swallowed).toBeGreaterThan(0);
  expect(asked).toBeGreaterThan(0);
  expect(proxy.connections).toBe(1);
});

test('a hole whose events are trimmed meanwhile is a gap', async () => {
  const topic = `trimmed:${fresh('hole')}`;
  const proxy = await proxied(server);
  const heard = items(client(proxy.ws, { ...impatient, silence: 60_000, connectTimeout: 30_000 }).topic(topic));
  await subscribed(heard);
  proxy.rule = ({ up, frame }) => (!up && frame && (!frame.type || frame.type === 'batch') ? 'swallow' : undefined);
  await publish(topic, 30, server);
  await trimmed(topic, 30);
  proxy.rule = undefined;
  await publish(topic, 1, server);
  await until('the newest', () => seqs(heard).at(-1) === 31);
  const gap = heard.find((item) => item.type === 'gap')!;
  expect(gap.after).toBe(0);
  expect(gap.tail).toBeGreaterThanOrEqual(26);
  expect(seqs(heard)).toEqual(upTo(31, gap.tail));
  expect(proxy.connections).toBe(1);
});

const storages: Record<string, () => PlaceStorage> = {
  memory: () => memoryStorage(),
  IndexedDB: () => {
    // What a browser has; the real one is tested in Chromium.
    (globalThis as { indexedDB?: unknown }).indexedDB = new IDBFactory();
    return indexedDBStorage();
  },
};
test.each(Object.keys(storages))('a page that is loaded again goes on where it was: %s', async (kind) => {
  const real = storages[kind]!();
  const kept: Place[] = [];
  const storage: PlaceStorage = {
    get: (key) => real.get(key),
    set: async (key, place) => {
      await real.set(key, place);
      kept.push(place);
    },
    delete: (key) => real.delete(key),
  };
  if (kind === 'IndexedDB') onTestFinished(() => void delete (globalThis as { indexedDB?: unknown }).indexedDB);
  const topic = fresh('storage');
  const all: number[] = [];
  for (let load = 0; load < 4; load++) {
    const rt = client(shared.ws, { ...patient, storage });
    const heard = items(rt.topic(topic));
    await subscribed(heard);
    if (load) expect(heard[0]).toMatchObject({ resumed: true, seq: all.at(-1) });
    await publish(topic, 10);
    const wanted = load ? 15 : 10;
    await until('its events', () => seqs(heard).length >= wanted);
    all.push(...seqs(heard));
    await until('the place to be kept', () => kept.at(-1)?.after === all.at(-1));
    rt.close();
    await publish(topic, 5); // while no page is there
    await head(topic, all.at(-1)! + 5);
  }
  expect(all).toEqual(upTo(all.length));
});

test('an iteration that is slow has little waiting, and loses nothing', async () => {
  const topic = fresh('slow');
  const rt = client(shared.ws, { ...patient, buffer: 5 });
  const handle = rt.topic(topic, { after: 0 });
  await publish(topic, 400);
  const got: number[] = [];
  for await (const event of handle.events()) {
    got.push(event.seq);
    if (got.length % 40 === 0) await pause(20); // many more come meanwhile than may wait
    if (got.length === 200) await publish(topic, 100);
    if (event.seq === 500) break;
  }
  expect(got).toEqual(upTo(500));
});

test('a slow iteration through a snapshot folds to the table', async () => {
  const prefix = fresh('slowsnap');
  const table = `public.${prefix.replaceAll('.', '_')}`;
  await sql(`create table ${table} (id int primary key, v int not null default 1, body text)`);
  await sql(`insert into ${table} select i, 1, repeat('x', 500) from generate_series(1, 600) i`);
  await sql(`select pgcast.attach('${table}', topic => '${prefix}')`);
  const fold = new Table<Versioned>();
  const handle = client(shared.ws, { ...patient, buffer: 3 }).topic(prefix, { snapshot: true });
  let done = false;
  const writing = (async () => {
    for (let i = 0; i < 150; i++) await sql(`update ${table} set v = v + 1 where id = $1`, [1 + (i % 7)]);
    done = true;
  })();
  for await (const item of handle) {
    fold.take(item);
    if (fold.changes % 10 === 9) await pause(5);
    const sum = [...fold.rows.values()].reduce((n, row) => n + row.v, 0);
    if (fold.snapshots && sum === 600 + 150) break;
  }
  await writing;
  expect(done).toBe(true);
  expect({ lost: fold.lost, doubled: fold.doubled, reordered: fold.reordered, size: fold.rows.size }).toEqual({ lost: 0, doubled: 0, reordered: 0, size: 600 });
});
