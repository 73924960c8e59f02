/** The client in a browser against a server: pages of an origin of their own, and a writer. */
import type { Page } from 'playwright-core';
import { serve, type Server } from '../test/harness/server.js';
import { shared } from '../test/harness/shared.js';
import { Origin, TestBrowser } from './harness.js';

/** What a page has of one topic: the seqs and names of its events in the order they came, and the notices. */
export interface Seen {
  seqs: number[];
  notices: string[];
}

// The page's own script. It listens to topics, and keeps what it was told.
const script = `
  import { connect } from '/client/index.js';
  import { indexedDBStorage } from '/client/storage.js';
  const seen = {};
  window.tests = {
    connect(url, options = {}, stored = false) {
      if (stored) options.storage = indexedDBStorage();
      window.rt = connect(url, options);
    },
    listen(name, options) {
      const topic = window.rt.topic(name, options);
      const one = (seen[name] = { seqs: [], notices: [], rows: [] });
      topic.on('event', (event) => { one.seqs.push(event.seq); });
      for (const notice of ['subscribed', 'snapshot', 'gap', 'reset', 'denied']) {
        topic.on(notice, (item) => {
          one.notices.push(notice + (notice === 'subscribed' ? ' ' + item.seq : ''));
          if (notice === 'snapshot') one.rows.push(...item.rows);
        });
      }
    },
    seen,
    stored: async (key) => (await indexedDBStorage().get(key))?.after,
    status: () => { const { state, transport } = window.rt.status.get(); return state + ' ' + transport; },
  };
`;

export class World {
  private constructor(
    readonly browser: TestBrowser,
    readonly origin: Origin,
    readonly server: Server,
    /** Go with each answer of the origin; they may be changed. */
    readonly headers: Record<string, string>,
  ) {}

  /** flags are those of pgcast serve. */
  static async start(flags: string[] = []): Promise<World> {
    const headers: Record<string, string> = {};
    const origin = await Origin.start(
      {
        '/': '<!doctype html><meta charset="utf-8"><title>client</title><script type="module" src="/page.js"></script>',
        '/page.js': script,
        '/client/': { dir: 'dist' },
      },
      headers,
    );
    const server = await serve(shared, ['--allowed-origins', origin.host, '--drain-timeout', '1s', ...flags]);
    return new World(await TestBrowser.start(), origin, server, headers);
  }

  async close(): Promise<void> {
    try {
      await this.browser.close();
    } finally {
      await this.server.stop();
      await this.origin.close();
    }
  }

  /** How many sessions the server has at this moment. */
  async sessions(): Promise<number> {
    const text = await (await fetch(`${this.server.admin}/metrics`)).text();
    const found = /^pgcast_sessions(?:\{[^}]*\})? (\d+)/m.exec(text);
    if (!found) throw new Error(`no sessions in the metrics:\n${text.slice(0, 2000)}`);
    return Number(found[1]);
  }

  /** Adds events to a topic by SQL. */
  async write(topic: string, count: number): Promise<void> {
    await this.server.sql(`select pgcast.publish($1, 'tick', to_jsonb(i)) from generate_series(1, $2::int) i`, [topic, count]);
  }
}

/* What follows runs in pages. */
declare global {
  interface Window {
    tests: {
      connect(url: string, options: object, stored: boolean): void;
      listen(topic: string, options?: object): void;
      seen: Record<string, Seen & { rows: unknown[] }>;
      stored(key: string): Promise<number | undefined>;
      status(): string;
    };
    rt: { cut(): void; close(): void };
  }
}

export async function connect(page: Page, world: World, options: object = {}, stored = false): Promise<void> {
  await page.goto(world.origin.url);
  await page.waitForFunction(() => window.tests);
  await page.evaluate(([url, o, s]) => window.tests.connect(url, o, s), [world.server.ws, options, stored] as const);
}

export function listen(page: Page, topic: string, options?: object): Promise<void> {
  return page.evaluate(([name, o]) => window.tests.listen(name, o), [topic, options] as const);
}

export function seen(page: Page, topic: string): Promise<Seen & { rows: unknown[] }> {
  return page.evaluate((name) => window.tests.seen[name]!, topic);
}

/** How many events a page has been told of a topic. */
export function count(page: Page, topic: string): Promise<number> {
  return page.evaluate((name) => window.tests.seen[name]!.seqs.length, topic);
}

export function status(page: Page): Promise<string> {
  return page.evaluate(() => window.tests.status());
}

/** from, from + 1 … to. */
export function range(from: number, to: number): number[] {
  return Array.from({ length: to - from + 1 }, (_, i) => from + i);
}
