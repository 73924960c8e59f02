// Tabs that share one connection, against a real server. browser/ has the same in a browser.
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Wanted } from '../src/link.js';
import { serve, until, type Server } from './harness/server.js';
import { fresh, shared } from './harness/shared.js';
import { Browser, type Heard } from './harness/tabs.js';

const range = (from: number, to: number): number[] => Array.from({ length: Math.max(0, to - from + 1) }, (_, i) => from + i);

function random(seed: number): () => number {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

describe('tabs that share', () => {
  let server: Server;
  beforeAll(async () => {
    server = await serve(shared, ['--drain-timeout', '1s']);
  });
  afterAll(() => server?.stop());

  const publish = (topic: string, n: number, count = 1): Promise<unknown> =>
    server.sql(`select pgcast.publish($1, 'tick', jsonb_build_object('n', i, 'odd', i % 2 = 1)) from generate_series($2::int, $2::int + $3::int - 1) i`, [
      topic,
      n,
      count,
    ]);
  /** Every committed event has its seq. */
  const settled = (): Promise<unknown> =>
    until('all is sequenced', async () => {
      const open = 'select 1 from pgcast.event_log e where not exists (select from pgcast.replay r where r.event_id = e.id) limit 1';
      return !(await server.sql(open)).length;
    });
  const head = async (topic: string): Promise<number> =>
    (await server.sql<{ seq: number }>('select coalesce(max(seq), 0) seq from pgcast.history where topic = $1', [topic]))[0]!.seq;

  test('a tab that comes later starts now, at its place, or with the snapshot, over the one connection', async () => {
    const browser = new Browser(server);
    const topic = fresh('late');
    const first = browser.tab().open({ topic, place: { after: 0 } });
    await publish(topic, 1, 30);
    await until('the first tab has them', () => first.events.length === 30);
    expect(first.events.map(({ seq }) => seq)).toEqual(range(1, 30));

    const now = browser.tab().open({ topic });
    const at = browser.tab().open({ topic, place: first.events[9]!.place });
    const all = browser.tab().open({ topic, place: { after: 0 } });
    await until('all are told where they start', () => [now, at, all].every(({ start }) => start !== undefined));
    await publish(topic, 31, 10);
    for (const heard of [first, now, at, all]) await until('they are told the rest', () => heard.last?.after === 40);
    expect(now.start).toBe(30);
    expect(now.events.map(({ seq }) => seq)).toEqual(range(31, 40));
    expect(at.start).toBe(10);
    expect(at.events.map(({ seq }) => seq)).toEqual(range(11, 40));
    expect(all.events.map(({ seq }) => seq)).toEqual(range(1, 40));
    expect(browser.links).toHaveLength(1);

    // A place of another history is not one of those that are kept: its tab is told so.
    const other = browser.tab().open({ topic, place: { after: 12, id: '1-1' } });
    await until('it is reset', () => other.items.some(({ type }) => type === 'reset'));
    expect(other.items).toMatchObject([{ type: 'subscribed' }, { type: 'reset', head: 40 }]);
    expect(all.kinds()).toEqual(['subscribed', 'event']);
    await publish(topic, 41);
    await until('it goes on', () => other.last?.after === 41);
    await until('it has come to the others', () => browser.links[1]?.status.get().state === 'closed');
    await publish(topic, 42);
    for (const heard of [first, now, at, all, other]) await until('they are told the rest', () => heard.last?.after === 42);
    expect(other.events.map(({ seq }) => seq)).toEqual([41, 42]);
    browser.close();
  });

  test('a live table in several tabs is the table, whenever they came, and asked for anew it is new', async () => {
    const browser = new Browser(server);
    const table = fresh('rows').replaceAll('.', '_');
    await server.sql(`create table ${table} (id int primary key, v int not null)`);
    await server.sql(`select pgcast.attach('${table}'::regclass, '${table}')`);
    await server.sql(`insert into ${table} select i, 0 from generate_series(1, 50) i`);
    const fold = (heard: Heard): [number, number][] => {
      let rows = new Map<number, number>();
      let seq = 0;
      for (const item of heard.items) {
        if (item.type === 'snapshot') {
          if (item.first) rows = new Map();
          for (const row of item.rows as { id: number; v: number }[]) rows.set(row.id, row.v);
          if (item.place) seq = item.place.after;
        } else if (item.type === 'event') {
          expect(item.seq).toBeGreaterThan(seq);
          seq = item.seq;
          if (item.event === 'deleted') rows.delete(item.data.id);
          else rows.set(item.data.id, item.data.v);
        } else if (item.type !== 'subscribed') throw new Error(`told ${item.type}`);
      }
      return [...rows].sort(([a], [b]) => a - b);
    };
    const tabs: Heard[] = [];
    const dice = random(7);
    for (let i = 1; i <= 60; i++) {
      if (i % 15 === 1) tabs.push(browser.tab().open({ topic: table, snapshot: true }));
      if (i === 40) browser.links[0]!.cut();
      await server.sql(`update ${table} set v = v + 1 where id <= $1`, [Math.floor(dice() * 10)]);
      await server.sql(`delete from ${table} where id = $1`, [10 + i]);
    }
    const again = tabs[1]!;
    await until('it has been told of changes', () => again.events.length > 10);
    again.close();
    // As Topic.refresh does: what was there before is not what it asks for.
    const anew = again.tab.open({ topic: table, snapshot: true });
    await until('it has its snapshot', () => anew.items.some(({ type, ...item }) => type === 'snapshot' && 'last' in item && item.last));
    await server.sql(`insert into ${table} values (1000, 1)`);
    const want = (await server.sql<{ id: number; v: number }>(`select id, v from ${table} order by id`)).map(({ id, v }) => [id, v]);
    await settled();
    const newest = await head(table);
    for (const heard of [tabs[0]!, tabs[2]!, tabs[3]!, anew]) {
      await until('it is told all', () => heard.last?.after === newest);
      expect(fold(heard)).toEqual(want);
    }
    expect(anew.events.length).toBeLessThan(tabs[0]!.events.length);
    expect(browser.links).toHaveLength(2); // the second for what was asked anew
    // Who wants no snapshot is told of every event, so it cannot share what a snapshot began.
    const plain = browser.tab().open({ topic: table });
    await until('it starts', () => plain.start !== undefined);
    expect(plain.start).toBe(newest);
    browser.close();
  });

  test('tabs come, go and die in any order: lost = doubled = reordered = 0', async () => {
    const seed = Number(process.env.PGCAST_SEED ?? Date.now() % 1_000_000);
    const dice = random(seed);
    const pick = <T>(of: readonly T[]): T => of[Math.floor(dice() * of.length)]!;
    const browser = new Browser(server);
    const name = fresh('any');
    const topics = [`${name}:a`, `${name}:b`, `${name}:c`];
    const heard: Heard[] = [];
    const open = (): Heard[] => heard.filter(({ closed, tab }) => !closed && !tab.dead);
    let writing = true;
    let written = 0;
    const writer = (async () => {
      while (writing) await publish(pick(topics), ++written, 1 + Math.floor(dice() * 3));
    })();
    const least = new Map<Heard, number>();
    const steps = 250;
    for (let step = 0; step < steps; step++) {
      const what = dice();
      const tab = browser.tabs.size ? pick([...browser.tabs]) : undefined;
      if (!tab || (what < 0.1 && browser.tabs.size < 6)) browser.tab();
      else if (what < 0.13) tab.close();
      else if (what < 0.17) tab.kill();
      else if (what < 0.22) tab.link.cut();
      else if (what < 0.35) {
        const one = open();
        if (one.length) pick(one).close();
      } else {
        const topic = dice() < 0.2 ? `${name}:*` : pick(topics);
        if (open().some((one) => one.tab === tab && one.wanted.topic === topic)) continue;
        const places = heard.filter((one) => one.wanted.topic === topic && one.last);
        const how = dice();
        const wanted: Wanted = { topic };
        if (how < 0.3) wanted.place = { after: 0 };
        else if (how < 0.6 && places.length) wanted.place = pick(pick(places).events).place;
        else if (how < 0.7) wanted.filter = { odd: true };
        const from = wanted.place || topic.endsWith('*') ? 0 : await head(topic);
        const one = tab.open(wanted);
        heard.push(one);
        least.set(one, from);
      }
      if (dice() < 0.5) await new Promise((next) => setTimeout(next, dice() * 20));
    }
    writing = false;
    await writer;
    await settled();
    const log = await server.sql<{ topic: string; seq: number; position: number; data: { odd: boolean } }>(
      `select topic, seq, position, data from pgcast.history where topic like $1 order by position`,
      [`${name}:%`],
    );
    const figures = { subscriptions: heard.length, events: log.length, told: 0, connections: browser.links.length, seed };
    for (const one of heard) {
      const { topic, filter } = one.wanted;
      const pattern = topic.endsWith('*');
      const place = (event: { seq: number; position?: number }): number => (pattern ? event.position! : event.seq);
      const all = log.filter((event) => (pattern || event.topic === topic) && (!filter || event.data.odd));
      const done = !one.closed && !one.tab.dead;
      const final = all.at(-1);
      // What a filter leaves out has no last event of its own to wait for if none follows.
      if (done && final) await until(`seed ${seed}: ${JSON.stringify(one.wanted)} is told all`, () => one.start !== undefined && (one.start >= place(final) || (one.last?.after ?? 0) >= place(final)));
      if (one.start === undefined) continue;
      figures.told += one.events.length;
      expect(one.start, `seed ${seed}`).toBeGreaterThanOrEqual(least.get(one)!);
      if (one.wanted.place) expect(one.start, `seed ${seed}`).toBe(one.wanted.place.after);
      expect(one.kinds().every((kind) => kind === 'event' || kind === 'subscribed'), `seed ${seed}`).toBe(true);
      const want = all.map(place).filter((n) => n > one.start!);
      const got = one.events.map(place);
      expect(got, `seed ${seed}: ${JSON.stringify(one.wanted)}`).toEqual(done ? want : want.slice(0, got.length));
    }
    expect(browser.own).toHaveLength(0);
    console.log(`tabs: ${JSON.stringify(figures)}`);
    browser.close();
  });
});
