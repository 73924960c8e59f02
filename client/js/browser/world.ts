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
      if (options.tokens) options.token = () => window.tests.token();
      delete options.tokens;
      window.rt = connect(url, options);
    },
    listen(name, options) {
      const topic = window.rt.topic(name, options);
      const one = (seen[name] = { seqs: [], notices: [], rows: [] });
      topic.on('event', (event) => { one.seqs.push(event.seq); window.last = performance.now(); });
      for (const notice of ['subscribed', 'snapshot', 'gap', 'reset', 'denied']) {
        topic.on(notice, (item) => {
          one.notices.push(notice + (notice === 'subscribed' ? ' ' + item.seq : ''));
          if (notice === 'snapshot') one.rows.push(...item.rows, ...item.events);
        });
      }
    },
    seen,
    status: () => { const { state, transport } = window.rt.status.get(); return state + ' ' + transport; },
  };
`;

export class World {
  private constructor(
    readonly browser: TestBrowser,
    readonly origin: Origin,
    readonly server: Server,
  ) {}

  /** flags are those of pgcast serve; headers go with the pages. */
  static async start(flags: string[] = [], headers: Record<string, string> = {}): Promise<World> {
    const origin = await Origin.start(
      {
        '/': '<!doctype html><meta charset="utf-8"><title>client</title><script type="module" src="/page.js"></script>',
        '/page.js': script,
        '/client/': { dir: 'dist' },
      },
      headers,
    );
    const server = await serve(shared, ['--allowed-origins', origin.host, '--drain-timeout', '1s', ...flags]);
    return new World(await TestBrowser.start(), origin, server);
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

  /** Adds events to a topic by SQL, each in a transaction of its own. */
  async write(topic: string, count: number): Promise<void> {
    for (let i = 0; i < count; i++) await this.server.sql(`select pgcast.publish($1, 'tick', to_jsonb($2::int))`, [topic, i]);
  }
}

/* What follows runs in pages. */
declare global {
  interface Window {
    tests: {
      connect(url: string, options: object, stored: boolean): void;
      listen(topic: string, options?: object): void;
      seen: Record<string, Seen & { rows: unknown[] }>;
      status(): string;
      token(): string;
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

export function status(page: Page): Promise<string> {
  return page.evaluate(() => window.tests.status());
}

/** from, from + 1 … to. */
export function range(from: number, to: number): number[] {
  return Array.from({ length: to - from + 1 }, (_, i) => from + i);
}
