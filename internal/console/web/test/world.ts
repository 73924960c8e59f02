// What the tests of the console share: a browser at the console of the run's server, data in its
// tables, and clients.
import { createRequire } from 'node:module';
import type { BrowserContext, BrowserContextOptions, Page } from 'playwright-core';
import { inject } from 'vitest';
import { TestBrowser, until } from '../../../../client/js/browser/harness.js';
import type { Address } from '../../../../client/js/test/harness/server.js';
import { connect, type Realtime } from '../../../../client/js/dist/index.js';

declare module 'vitest' {
  interface ProvidedContext {
    dev: Address;
  }
}

const theirs = createRequire(new URL('../../../../client/js/package.json', import.meta.url));
const pg = theirs('pg') as typeof import('../../../../client/js/node_modules/@types/pg/index.js');
const WebSocket = theirs('ws') as typeof globalThis.WebSocket;

/** The pgcast dev of this run. */
export const shared: Address = inject('dev');

let pool: InstanceType<typeof pg.Pool> | undefined;

/** Runs SQL on the shared server's database. */
export async function sql(text: string, params?: unknown[]): Promise<Record<string, any>[]> {
  pool ??= new pg.Pool({ connectionString: shared.databaseURL, max: 4, allowExitOnIdle: true });
  return (await pool.query(text, params)).rows;
}

/** Ends the connections to the database. */
export async function endSQL(): Promise<void> {
  await pool?.end();
  pool = undefined;
}

/** A client of the shared server, as an app has it. */
export function client(name: string): Realtime {
  return connect(shared.ws, { WebSocket, transport: 'websocket', share: false, user: { id: name.toLowerCase(), name } });
}

/** A browser, and what its pages asked for and said. */
export class World {
  /** Requests to others than the server. */
  readonly foreign: string[] = [];
  /** Whatever pages wrote to the console. */
  readonly said: string[] = [];

  private constructor(readonly browser: TestBrowser) {}

  static async start(): Promise<World> {
    return new World(await TestBrowser.start());
  }

  async profile(options: BrowserContextOptions = {}, admin = shared.admin): Promise<BrowserContext> {
    const context = await this.browser.profile({ viewport: { width: 1440, height: 900 }, ...options });
    const host = new URL(admin).host;
    context.on('request', (request) => {
      const url = new URL(request.url());
      if (url.host !== host && url.protocol !== 'data:' && url.protocol !== 'blob:') this.foreign.push(url.href);
    });
    context.on('console', (message) => this.said.push(`${message.type()}: ${message.text()}`));
    return context;
  }

  /** A page at a hash of the console. */
  async open(hash = '', options: BrowserContextOptions = {}, admin = shared.admin): Promise<Page> {
    const context = await this.profile(options, admin);
    const page = await context.newPage();
    await page.goto(`${admin}/console/${hash}`);
    return page;
  }

  close(): Promise<void> {
    return this.browser.close();
  }
}

/** Opens the page of a topic, and waits until it is subscribed. */
export async function openTopic(world: World, name: string, options: BrowserContextOptions = {}): Promise<Page> {
  const page = await world.open(`#/topics/${encodeURIComponent(name)}`, options);
  await page.locator('.row').first().waitFor(); // the notice of it may be far below, and not drawn
  return page;
}

/** The figure that an attribute of an element has. */
export async function figure(page: Page, attribute: string): Promise<number> {
  return Number(await page.locator(`[${attribute}]`).first().getAttribute(attribute));
}

let seeded: Promise<void> | undefined;

/** Fills the database, once for a file: tables, an attached one that has drifted, topics with long names, events of all kinds. */
export function seed(): Promise<void> {
  return (seeded ??= fill());
}

async function fill(): Promise<void> {
  await sql(`
    create table if not exists messages (id int generated always as identity primary key, room_id int, author text, body text, likes int default 0, meta jsonb);
    create table if not exists orders (id int generated always as identity primary key, customer_id int, status text, total numeric(10, 2));
    create table if not exists audit_trail_of_everything_that_ever_happened (id uuid primary key default gen_random_uuid(), what text);
    create table if not exists stale (id int primary key, kept text)`);
  await sql(`select pgcast.attach('messages', topic => 'room:{room_id}')`);
  await sql(`select pgcast.attach('orders', topic => 'orders:customer:{customer_id}', old => true)`);
  await sql(`select pgcast.attach('stale')`);
  await sql(`alter table stale disable trigger all`);
  await sql(`insert into messages (room_id, author, body, meta)
    select 1 + g % 5, (array['ann', 'bob', 'cem'])[1 + g % 3], 'Message ' || g || ', as people write them', jsonb_build_object('tags', array['a', 'b'], 'n', g)
      from generate_series(1, 60) g`);
  await sql(`insert into orders (customer_id, status, total) select 1 + g % 3, 'new', g * 13.37 from generate_series(1, 30) g`);
  await sql(`update orders set status = 'paid', total = total + 1 where id % 2 = 0`);
  await sql(`delete from orders where id = 5`);
  await sql(`select pgcast.publish(format('device:%s:telemetry', lpad(g::text, 4, '0')), 'seen', jsonb_build_object('n', g)) from generate_series(1, 130) g`);
  await sql(`select pgcast.publish($1, 'greeting', '{"hello": "world"}')`, [longName]);
  await until('everything to be sequenced', async () => (await sql(`select count(*)::int as n from pgcast.history where topic = $1`, [longName]))[0]!.n > 0);
}

/** A topic whose name is as long as people make them. */
export const longName =
  'tenant:3f9a1c7e-0b64-4a4e-9d53-2b8f6a1d7c11:project:very-long-project-name-that-goes-on:environment:production:stream:notifications';
