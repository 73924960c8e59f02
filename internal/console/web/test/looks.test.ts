// How the console looks and how it is used: both themes, a phone, the keyboard, readers of
// screens; pictures of all of it are kept in artifacts/.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import type { BrowserContext, Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { findChromium, overflow, shoot, until } from '../../../../client/js/browser/harness.js';
import { client, endSQL, longName, seed, shared, sql, World } from './world.js';

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

interface Screen {
  name: string;
  hash: string;
  ready: string;
  /** What is done there before it is looked at. */
  then?: (page: Page) => Promise<void>;
}

const screens: Screen[] = [
  { name: 'overview', hash: '', ready: '.chart-card canvas' },
  { name: 'topics', hash: '#/topics', ready: 'a.name' },
  {
    name: 'topic', hash: `#/topics/${encodeURIComponent('orders:customer:3')}`, ready: '.row-event.updated',
    then: async (page) => {
      await page.locator('.row:has(.row-event.updated)').first().click();
      await page.locator('.diff tr.changed').first().waitFor();
    },
  },
  { name: 'publish', hash: `#/topics/${encodeURIComponent(longName)}`, ready: `.topic-page:has([title="${longName}"]) .row:not(.notice)` },
  {
    name: 'travel', hash: '#/topics/room%3A1', ready: '.topic-page:has([title="room:1"]) .row:not(.notice)',
    then: async (page) => {
      await page.getByRole('button', { name: 'Time travel' }).click();
      await page.getByText(/^Event .* written/).waitFor();
    },
  },
  { name: 'tables', hash: '#/tables', ready: '.list a.name' },
  {
    name: 'attach', hash: '#/tables', ready: '.list a.name',
    then: async (page) => {
      await page.getByRole('button', { name: /^Attach .*audit_trail/ }).click();
      await page.getByRole('dialog').waitFor();
    },
  },
  { name: 'sessions', hash: '#/sessions', ready: '.who' },
  { name: 'health', hash: '#/health', ready: '.finding' },
  { name: 'docs', hash: '#/docs/protocol', ready: '.prose h1' },
];

async function violations(page: Page): Promise<string[]> {
  await page.evaluate(axe);
  return page.evaluate(async () => {
    const run = (globalThis as unknown as { axe: { run(of: Document, options: object): Promise<{ violations: { id: string; nodes: { html: string; failureSummary?: string }[] }[] }> } }).axe;
    const found = await run.run(document, { resultTypes: ['violations'] });
    return found.violations.flatMap((v) => v.nodes.map((n) => `${v.id}: ${n.html.slice(0, 200)} ${n.failureSummary ?? ''}`));
  });
}

describe.skipIf(!findChromium())('how the console looks', () => {
  let world: World;
  const clients = ['Ann', 'Bob', 'Cem'].map((name) => [name, client(name)] as const);
  beforeAll(async () => {
    world = await World.start();
    await seed();
    for (const [, rt] of clients) rt.topic('room:1').on('event', () => {});
  });
  afterAll(async () => {
    for (const [, rt] of clients) rt.close();
    await world?.close();
    await endSQL();
  });

  async function see(context: BrowserContext, theme: string, size: string): Promise<void> {
    const page = await context.newPage();
    for (const screen of screens) {
      await page.goto(`${shared.admin}/console/${screen.hash}`);
      await page.locator(screen.ready).first().waitFor();
      await screen.then?.(page);
      await page.evaluate(() => document.fonts.ready.then(() => undefined));
      expect({ screen: screen.name, ...(await overflow(page)) }).toMatchObject({ by: 0 });
      await shoot(page, `console-${screen.name}-${theme}-${size}`);
      expect({ screen: screen.name, found: await violations(page) }).toEqual({ screen: screen.name, found: [] });
    }
    expect(world.browser.takeErrors()).toEqual([]);
    expect(world.foreign).toEqual([]);
    await context.close();
  }

  // Each width and each theme at least once; PGCAST_TEST_LOOKS=all takes what else there is.
  const all = process.env['PGCAST_TEST_LOOKS'] === 'all';
  const phone = { viewport: { width: 360, height: 740 }, isMobile: true, hasTouch: true };
  test('light, 1440 wide', async () => see(await world.profile({ colorScheme: 'light' }), 'light', '1440'));
  test('dark on a phone, 360 wide, without scrolling sideways', async () => see(await world.profile({ colorScheme: 'dark', ...phone }), 'dark', '360'));
  test.runIf(all)('light on a phone, 360 wide', async () => see(await world.profile({ colorScheme: 'light', ...phone }), 'light', '360'));
  test.runIf(all)('dark, 1024 wide', async () =>
    see(await world.profile({ colorScheme: 'dark', viewport: { width: 1024, height: 768 } }), 'dark', '1024'));

  test('the theme that was chosen is remembered', async () => {
    const page = await world.open('#/topics', { colorScheme: 'light' });
    await page.getByRole('button', { name: /^Theme: system/ }).click();
    await page.getByRole('button', { name: /^Theme: light/ }).click();
    const background = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    expect(await background()).toBe('rgb(13, 16, 19)');
    await page.reload();
    await page.getByRole('button', { name: /^Theme: dark/ }).waitFor();
    expect(await background()).toBe('rgb(13, 16, 19)');
    await page.context().close();
  });

  test('everything is reached by the keyboard', async () => {
    const page = await world.open();
    await page.getByRole('heading', { name: 'Overview' }).waitFor();
    await page.keyboard.press('Tab');
    expect(await page.evaluate(() => document.activeElement?.textContent)).toBe('Skip to the content');
    await page.keyboard.press('g');
    await page.keyboard.press('s');
    await page.getByRole('heading', { name: 'Sessions' }).waitFor();
    await page.keyboard.press('?');
    await page.getByRole('dialog', { name: 'Keys' }).waitFor();
    await page.keyboard.press('Escape');
    await until('the sheet to go', async () => (await page.getByRole('dialog').count()) === 0);
    await page.keyboard.press('Control+k');
    await page.keyboard.type('room:1');
    await page.getByRole('option', { name: /^room:1/ }).waitFor();
    await page.keyboard.press('Enter');
    await page.locator('.row:not(.notice)').first().waitFor();
    await page.keyboard.press('j');
    await page.keyboard.press('j');
    await until('the second event', async () => (await page.locator('.row[aria-selected=true]').getAttribute('aria-posinset')) !== null);
    await page.locator('.event-view').waitFor();
    await page.keyboard.press('Escape');
    await until('no event', async () => (await page.locator('.event-view').count()) === 0);
    await page.context().close();
  });

  test('first paint', async () => {
    const paints: number[] = [];
    for (let i = 0; i < 3; i++) {
      const page = await world.open();
      await page.locator('.sums strong').first().waitFor();
      const paint = await page.evaluate(
        () =>
          new Promise<number>((done) => {
            new PerformanceObserver((list) => {
              const found = list.getEntriesByName('first-contentful-paint')[0];
              if (found) done(found.startTime);
            }).observe({ type: 'paint', buffered: true });
          }),
      );
      paints.push(Math.round(paint));
      await page.context().close();
    }
    console.log(`first contentful paint of the console, each without a cache: ${paints.join(', ')} ms (1000 is wanted)`);
    expect(paints).toHaveLength(3);
  });

  test('what moves little moves nothing: the overview does not shift', async () => {
    const page = await world.open();
    await page.evaluate(() => {
      const w = window as unknown as { shifted: number };
      w.shifted = 0;
      new PerformanceObserver((list) => {
        for (const entry of list.getEntries() as unknown as { value: number; hadRecentInput: boolean }[]) if (!entry.hadRecentInput) w.shifted += entry.value;
      }).observe({ type: 'layout-shift', buffered: true });
    });
    await page.locator('.chart-card canvas').nth(5).waitFor();
    await sql(`select pgcast.publish('shift', 'tick', '{}')`);
    await until('figures', async () => (await page.locator('.sums strong').count()) >= 4);
    const shifted = await page.evaluate(() => (window as unknown as { shifted: number }).shifted);
    console.log(`cumulative layout shift of the overview: ${shifted.toFixed(4)}`);
    expect(shifted).toBeLessThan(0.1);
    await page.context().close();
  });
});
