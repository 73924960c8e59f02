import { expect, test } from 'vitest';
import { connect } from '../src/index.js';
import type { ConnectOptions, Item, Realtime, Topic } from '../src/types.js';
import { impatient } from './harness/client.js';
import { Proxy, type How } from './harness/proxy.js';
import { pause, until } from './harness/server.js';
import { fresh, shared, sql } from './harness/shared.js';
import { connecting, cutAt, Random, seed, snapshotting, streaming } from './harness/steps.js';
import { add, faults, flawless, none, Table, Witness, type Versioned } from './harness/witness.js';

const pages = 4;
const cuts = 200;

const options: ConnectOptions = { ...impatient, buffer: 10 };

interface Row extends Versioned {
  body: string;
}

/** What is written to while connections break. */
class World {
  readonly prefix = fresh('cuts');
  readonly exact = ['a', 'b', 'c'].map((name) => `${this.prefix}:${name}`);
  /** Heard only through the pattern, which selects the exact ones as well. */
  readonly other = `${this.prefix}:d`;
  readonly pub = `${this.prefix}:pub`;
  readonly deep = ['1', '2', '3'].map((name) => `${this.prefix}:w:${name}`);
  readonly rows = `${this.prefix}:t:rows`;
  readonly table = `public.${this.prefix.replaceAll('.', '_')}`;
  written = 0;

  async make(): Promise<void> {
    await sql(`create table ${this.table} (id int generated always as identity primary key, room text not null default 'rows', v int not null default 1, body text not null)`);
    await sql(`insert into ${this.table} (body) select repeat('x', 1000) from generate_series(1, 250)`);
    await sql(`select pgcast.attach('${this.table}', topic => '${this.prefix}:t:{room}')`);
  }

  /** Writes until told to stop. */
  async write(random: Random, done: () => boolean): Promise<void> {
    const topics = [...this.exact, ...this.deep, this.other];
    while (!done()) {
      const n = ++this.written;
      switch (random.below(6)) {
        case 0: // several topics and the table in one transaction
          await sql(
            `with t as (insert into ${this.table} (body) values ('new') returning id)
             select pgcast.publish(topic, 'many', jsonb_build_object('n', $2::int, 'id', (select id from t))) from unnest($1::text[]) topic`,
            [topics, n],
          );
          break;
        case 1:
          await sql(`update ${this.table} set v = v + 1 where id in (select id from ${this.table} order by random() limit 2)`);
          break;
        case 2:
          await sql(`delete from ${this.table} where id = (select id from ${this.table} order by random() limit 1)`);
          break;
        default:
          await sql(`select pgcast.publish($1, 'one', jsonb_build_object('n', $2::int))`, [random.one(topics), n]);
      }
      await pause(random.below(12));
    }
  }
}

/** One app behind a bad network. */
class Page {
  readonly witness = new Witness();
  /** Of the pattern that selects what others are subscribed to as well: each subscription is told of it once. */
  readonly overlapping = new Witness();
  readonly table = new Table<Row>();
  readonly published: Promise<{ id: string }>[] = [];
  readonly denied: Item[] = [];
  readonly missed: string[] = [];
  readonly counts = new Map<string, number>();
  readonly rows: Topic;
  private readonly rt: Realtime;
  private iteration: Promise<void> | undefined;
  /** Topics and patterns that have been subscribed to: what is committed from then on has to come. */
  private readonly begun = new Set<string>();

  constructor(
    readonly number: number,
    readonly world: World,
    readonly proxy: Proxy,
    readonly random: Random,
  ) {
    this.rt = connect(proxy.ws, options);
    this.rows = this.rt.topic(world.rows, { snapshot: true });
  }

  /** Listens in each way there is, and waits until it is subscribed to everything. */
  async listen(): Promise<void> {
    const { world, witness } = this;
    const [a, b, c] = world.exact as [string, string, string];
    for (const name of [a, b, world.pub]) this.hear(this.rt.topic(name, { after: 0 }));
    const iterated = this.rt.topic(c, { after: 0 });
    this.iteration = (async () => {
      for await (const item of iterated) {
        witness.hear(item);
        if (this.random.chance(0.1)) await pause(this.random.below(30)); // a slow app: the buffer runs over
      }
    })();
    this.hear(this.rt.topic(`${world.prefix}:w:*`));
    this.hear(this.rt.topic(`${world.prefix}:*`), this.overlapping);
    for (const name of ['snapshot', 'event'] as const) this.rows.on(name, this.table.take as (item: Item) => void);
    this.rows.on('subscribed', () => this.begun.add(world.rows));
    await until('all subscriptions', () => this.begun.size === 6 && this.table.snapshots);
  }

  private hear(topic: Topic, witness = this.witness): void {
    topic.on('event', witness.hear as (item: Item) => void);
    topic.on('denied', (item) => this.denied.push(item));
    topic.on('subscribed', () => this.begun.add(topic.name));
  }

  /** Publishes beside everything else until told to stop; each one's data is its own. */
  async publish(done: () => boolean): Promise<void> {
    for (let n = 0; !done(); n++) {
      this.published.push(this.rt.topic(this.world.pub, { after: 0 }).publish('said', { page: this.number, n }));
      await Promise.race([this.published.at(-1), pause(20 + this.random.below(100))]);
    }
  }

  /** Breaks the connection so many times, each at a step. */
  async suffer(times: number): Promise<void> {
    const steps = { ...connecting, ...snapshotting, ...streaming };
    let left: string[] = [];
    for (let i = 0; i < times; i++) {
      if (!left.length) left = [...Object.keys(steps), 'refused', 'refused at accept', 'any moment'];
      const name = left.splice(this.random.below(left.length), 1)[0]!;
      const how = this.how();
      this.proxy.patience = how === 'deaf-up' ? 300 : 5000; // a client cannot see that it is not heard
      const before = this.proxy.connections;
      await this.breakAt(name, how);
      this.counts.set(`${name}, ${how}`, (this.counts.get(`${name}, ${how}`) ?? 0) + 1);
      if (how.startsWith('deaf') && !this.missed.length) await until(`page ${this.number} to come back after ${name}, ${how}`, () => this.proxy.connections > before);
      if (this.random.chance(0.4)) {
        const seen = this.overlapping.seq(this.world.other);
        await until(`page ${this.number} to go on after ${name}, ${how}`, () => this.overlapping.seq(this.world.other) > seen);
      }
    }
  }

  private how(): How {
    const chance = this.random.next();
    return chance < 0.45 ? 'reset' : chance < 0.7 ? 'close' : chance < 0.8 ? 'deaf' : chance < 0.9 ? 'deaf-down' : 'deaf-up';
  }

  private async breakAt(name: string, how: How): Promise<void> {
    const { proxy } = this;
    const before = proxy.connections;
    if (name === 'refused') {
      proxy.unlisten();
      proxy.cut(how === 'close' ? 'close' : 'reset');
      await pause(this.random.below(100));
      await proxy.listen();
      await until('another connection', () => proxy.connections > before);
    } else if (name === 'refused at accept') {
      proxy.refuse = true;
      proxy.cut();
      await until('a connection that is refused', () => proxy.connections > before);
      proxy.refuse = false;
      await until('another connection', () => proxy.connections > before + 1);
    } else if (name === 'any moment') {
      await pause(this.random.below(50));
      await until('a connection to cut', () => proxy.size);
      proxy.cut(how);
    } else {
      const cut = cutAt(proxy, { ...connecting, ...snapshotting, ...streaming }[name]!, how, 30_000);
      if (name in connecting) proxy.cut();
      if (name in snapshotting) this.rows.refresh();
      if (!(await cut)) this.missed.push(`${name}, ${how}`);
    }
  }

  /** What each witness is to have heard. */
  get duties(): [Witness, string[]][] {
    const { exact, pub, deep, other } = this.world;
    return [[this.witness, [...exact, pub, ...deep]], [this.overlapping, [...exact, pub, other]]];
  }

  /** Waits until everything that was written has come. */
  async settle(heads: Map<string, number>): Promise<void> {
    const behind = () =>
      this.duties.flatMap(([witness, topics]) => topics.filter((topic) => witness.seq(topic) < heads.get(topic)!)
        .map((topic) => `${topic} is at ${witness.seq(topic)} of ${heads.get(topic)}`));
    await until(() => `page ${this.number}: ${behind().join()}`, () => behind().length === 0, 20_000)
      .catch((err: Error) => console.error(err.message)); // the figures say what is lost
  }

  async close(): Promise<void> {
    this.rt.close();
    await this.iteration;
    this.proxy.close();
  }
}

test(`${cuts} random cuts, at every step: nothing lost, doubled or reordered, and each publish once`, { timeout: 300_000 }, async () => {
  const began = Date.now();
  const random = new Random(seed());
  const world = new World();
  await world.make();
  const all: Page[] = [];
  for (let n = 0; n < pages; n++) all.push(new Page(n, world, await Proxy.to(shared), new Random(random.below(2 ** 31))));
  await Promise.all(all.map((page) => page.listen()));

  let done = false;
  const writers = [1, 2].map(() => world.write(new Random(random.below(2 ** 31)), () => done));
  const publishing = all.map((page) => page.publish(() => done));
  await Promise.all(all.map((page) => page.suffer(cuts / pages)));
  done = true;
  await Promise.all([...writers, ...publishing]);
  const published = await Promise.all(all.flatMap((page) => page.published));

  const topics = [...world.exact, world.pub, world.other, ...world.deep];
  const heads = await until('the log to hold everything', async () => {
    const [{ open }] = (await sql('select count(*) as open from pgcast.event_log e where not exists (select from pgcast.replay r where r.event_id = e.id)')) as [{ open: number }];
    if (open) return undefined;
    const rows = await sql<{ topic: string; head: number }>('select topic, max(seq) as head from pgcast.history where topic = any($1) group by topic', [topics]);
    return new Map(rows.map((row) => [row.topic, row.head]));
  });
  expect([...heads.keys()].sort()).toEqual([...topics].sort());
  await Promise.all(all.map((page) => page.settle(heads)));

  const total = none();
  for (const page of all) {
    for (const [witness, names] of page.duties) for (const topic of names) add(total, await witness.compare(topic));
  }
  const rows = await sql<Row>(`select id, v, body from ${world.table} order by id`);
  const want = rows.map(({ id, v }) => `${id} ${v}`);
  const held = (page: Page) => [...page.table.rows.values()].sort((x, y) => x.id - y.id).map(({ id, v }) => `${id} ${v}`);
  await until('the folded tables', () => all.every((page) => held(page).join() === want.join()), 20_000).catch(() => {});
  const tables = { lost: 0, doubled: 0, reordered: 0, differing: 0 };
  let changes = 0;
  let snapshots = 0;
  for (const page of all) {
    tables.lost += page.table.lost;
    tables.doubled += page.table.doubled;
    tables.reordered += page.table.reordered;
    if (held(page).join() !== want.join()) tables.differing++;
    changes += page.table.changes;
    snapshots += page.table.snapshots;
  }
  const said = await sql<{ page: number; n: number; times: number }>(
    `select (data->>'page')::int as page, (data->>'n')::int as n, count(*) as times from pgcast.history where topic = $1 group by 1, 2`,
    [world.pub],
  );
  const twice = said.filter(({ times }) => times !== 1).length;
  const ids = new Set(published.map(({ id }) => id));

  console.log(`${cuts} cuts of ${pages} pages in ${((Date.now() - began) / 1000).toFixed(1)} s: ${world.written} writes, ` +
    `${JSON.stringify(total)}; tables: ${snapshots} snapshots, ${changes} changes, ${JSON.stringify(tables)}; ` +
    `publishes: ${said.length} of ${published.length}, ${twice} not once`);
  await Promise.all(all.map((page) => page.close()));

  expect(faults(total)).toEqual(flawless);
  expect(tables).toEqual({ lost: 0, doubled: 0, reordered: 0, differing: 0 });
  expect(said).toHaveLength(published.length);
  expect(twice).toBe(0);
  expect(ids.size).toBe(published.length);
  expect(all.flatMap((page) => page.denied)).toEqual([]);
  expect(all.flatMap((page) => page.missed)).toEqual([]);
});
