/** The example applications, as pgcast dev serves them: two windows of each, with real clicks. */
import { readFileSync } from 'node:fs';
import type { BrowserContextOptions, Page } from 'playwright-core';
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import { shared, sql } from '../test/harness/shared.js';
import { findChromium, overflow, phone, shoot, TestBrowser, until } from './harness.js';

const window: BrowserContextOptions = { viewport: { width: 760, height: 640 } };
const dark: BrowserContextOptions = { ...window, colorScheme: 'dark' };
const darkPhone: BrowserContextOptions = { ...phone, colorScheme: 'dark' };

vi.setConfig({ testTimeout: 180_000 }); // two windows on a busy machine

describe.skipIf(!findChromium())('the examples', () => {
  let browser: TestBrowser;
  beforeAll(async () => {
    // As pgcast example does.
    for (const name of ['kanban', 'ops']) await sql(readFileSync(`../../examples/${name}/schema.sql`, 'utf8'));
    browser = await TestBrowser.start();
  });
  afterAll(async () => {
    await browser?.close();
    for (const name of ['kanban', 'ops']) {
      await sql(`select pgcast.detach(relation) from pgcast.attachment where relation::text like 'example_${name}.%'`);
      await sql(`drop schema example_${name} cascade`);
    }
  });
  afterEach(() => expect(browser.takeErrors()).toEqual([]));

  /** Opens a window of its own user, once it is connected. */
  async function open(name: string, look: BrowserContextOptions): Promise<Page> {
    const page = await (await browser.profile(look)).newPage();
    await page.goto(`${shared.url}/examples/${name}/`);
    await page.waitForSelector('#state.online');
    return page;
  }

  /** Keeps pictures of the windows, none of which is to be too wide, and closes them. */
  async function close(name: string, ...pages: Page[]): Promise<void> {
    for (const [i, page] of pages.entries()) {
      await shoot(page, `example-${name}-${i + 1}`);
      expect((await overflow(page)).by, `${name} ${i + 1}`).toBeLessThanOrEqual(0);
      await page.context().close();
    }
  }

  const texts = (page: Page, selector: string) => page.locator(selector).allTextContents();

  test('chat: both see what is said, who types and who is here; what was said in a tunnel comes once', async () => {
    const [a, b] = [await open('chat', window), await open('chat', darkPhone)];
    await until('both are here', async () => (await texts(a, '#people li')).length === 2 && (await texts(b, '#people li')).length === 2);
    await a.locator('#text').pressSequentially('Good');
    await b.locator('#typing', { hasText: 'is typing' }).waitFor();
    await a.fill('#text', 'Good morning!');
    await a.click('text=Send');
    await b.locator('#messages li', { hasText: 'Good morning!' }).waitFor();
    await until('nobody types', async () => (await b.textContent('#typing')) === '');

    await b.click('text=Cut for 5 s');
    await b.locator('#state.connecting').waitFor();
    await b.fill('#text', 'I am in a tunnel');
    await b.press('#text', 'Enter');
    await b.locator('#messages li.pending', { hasText: 'tunnel' }).waitFor();
    await a.fill('#text', 'Are you there?');
    await a.press('#text', 'Enter');
    for (const page of [a, b]) {
      await page.locator('#messages li:not(.pending)', { hasText: 'tunnel' }).waitFor();
      await page.locator('#messages li:not(.pending)', { hasText: 'Are you there?' }).waitFor();
      expect((await texts(page, '#messages li p')).sort()).toEqual(['Are you there?', 'Good morning!', 'I am in a tunnel']);
    }
    // Another room is empty; back in the first, the log has what was said.
    await a.click('text=lunch');
    await until('the room is empty', async () => (await texts(a, '#messages li')).length === 0);
    await a.click('text=lobby');
    await until('what was said is there', async () => (await texts(a, '#messages li')).length === 3);
    await close('chat', a, b);
  });

  test('board: both see the pointers and notes of both', async () => {
    const [a, b] = [await open('board', window), await open('board', dark)];
    await a.mouse.dblclick(300, 300);
    await a.locator('textarea:focus').waitFor();
    await a.keyboard.type('Remember the milk');
    await a.mouse.move(120, 420); // somewhere else, where the other is to see it
    await a.mouse.click(120, 420);
    await until('the other has the note', async () => (await b.locator('textarea').inputValue({ timeout: 1000 }).catch(() => '')) === 'Remember the milk');
    const at = async (page: Page) => {
      const box = (await page.locator('.note').boundingBox())!;
      return [Math.round(box.x), Math.round(box.y)];
    };
    const before = await at(a);
    const handle = (await b.locator('.note button').boundingBox())!;
    await b.mouse.move(handle.x + 80, handle.y + 8);
    await b.mouse.down();
    await b.mouse.move(560, 200, { steps: 4 });
    await b.mouse.up();
    await until('it has moved in both', async () => {
      const [x, y] = [await at(a), await at(b)];
      return x[0]! > before[0]! + 100 && Math.abs(x[0]! - y[0]!) <= 1 && Math.abs(x[1]! - y[1]!) <= 1;
    });
    for (const page of [a, b]) await page.locator('.cursor b').waitFor();
    // By keyboard, and away with an empty text.
    const moved = await at(b);
    await a.locator('.note button').press('ArrowLeft');
    await until('it has moved by keyboard', async () => (await at(b))[0]! < moved[0]!);
    await shoot(a, 'example-board-note');
    await a.locator('textarea').fill('');
    await a.mouse.click(120, 420);
    await until('it is gone in both', async () => (await a.locator('.note').count()) + (await b.locator('.note').count()) === 0);
    await close('board', a, b);
  });

  test('kanban: SQL and both windows make one board; a statement that fails is taken back', async () => {
    const [a, b] = [await open('kanban', window), await open('kanban', darkPhone)];
    const board = (page: Page) => page.locator('#lists > li').evaluateAll((lists) => lists.map((l) => [...l.querySelectorAll('p')].map((p) => p.textContent)));
    const card = (page: Page, title: string) => page.locator('li li', { hasText: title });
    const [todo, doing] = [1, 2].map((n) => `#lists > li:nth-child(${n})`);
    await sql(`insert into example_kanban.cards (list, title) values (1, 'Buy a bell')`);
    for (const page of [a, b]) await card(page, 'Buy a bell').waitFor();

    await card(a, 'Buy a bell').hover();
    await a.mouse.down();
    const there = (await a.locator(`${doing} ul`).boundingBox())!;
    await a.mouse.move(there.x + 40, there.y + 8, { steps: 5 });
    await a.mouse.up();
    await b.locator(`${doing} li`, { hasText: 'Buy a bell' }).waitFor();
    // What is dragged from elsewhere is no card, and moves none: lists do not take it.
    expect(await a.locator(`${todo} ul`).evaluate((ul) => ul.dispatchEvent(new DragEvent('dragover', { cancelable: true })))).toBe(true);
    await card(a, 'Try the examples').focus();
    await a.keyboard.press('ArrowLeft');
    await b.locator(`${todo} li`, { hasText: 'Try the examples' }).waitFor();
    expect(await a.evaluate(() => document.activeElement?.querySelector('p')?.textContent)).toBe('Try the examples');
    await a.keyboard.press('ArrowUp');
    await b.locator(`${doing} input`).fill('Answer the phone');
    await b.locator(`${doing} input`).press('Enter');
    await card(a, 'Answer the phone').waitFor();
    await card(b, 'Read the concepts').getByLabel('Remove').click();
    await until('nothing is pending', async () => (await a.locator('.pending').count()) + (await b.locator('.pending').count()) === 0);
    await until('both show the same', async () => JSON.stringify(await board(a)) === JSON.stringify(await board(b)));
    const stored = await sql<{ titles: string[] }>(
      `select coalesce(array_agg(c.title order by c.place) filter (where c.id is not null), '{}') titles
       from example_kanban.lists l left join example_kanban.cards c on c.list = l.id group by l.id order by l.id`,
    );
    expect(await board(a)).toEqual(stored.map((row) => row.titles));

    await sql(`alter table example_kanban.cards add constraint full_up check (list <> 3 or title <> 'Buy a bell')`);
    await card(a, 'Buy a bell').getByLabel('Move right').click();
    await a.locator('#note', { hasText: 'full_up' }).waitFor();
    expect(await board(a)).toEqual(stored.map((row) => row.titles));
    await close('kanban', a, b);
  });

  test('ops: services, incidents and the log change by themselves; a filter selects', async () => {
    const [a, b] = [await open('ops', { viewport: { width: 1100, height: 800 } }), await open('ops', darkPhone)];
    await until('both show the services', async () => (await texts(a, '#services li')).length === 6 && (await texts(b, '#services li')).length === 6);
    const line = () => b.locator('#services polyline').first().getAttribute('points');
    const before = await line();
    await a.click('text=Simulate');
    await until('the lines move', async () => (await line()) !== before);
    await sql('select example_ops.tick() from generate_series(1, 60)');
    await sql(`insert into example_ops.incidents (service, title) values ('mail', 'The postman is ill')`);
    for (const page of [a, b]) await page.locator('#incidents li', { hasText: 'The postman is ill' }).waitFor();
    await a.locator('#services li.broken', { hasText: 'mail' }).waitFor();
    await until('there is a log', async () => (await a.locator('#log li').count()) > 5);
    await close('ops', b);

    await a.locator('#incidents li', { hasText: 'The postman is ill' }).getByText('Close').click();
    await until('it is closed', async () => (await a.locator('#incidents li', { hasText: 'postman' }).count()) === 0);
    await until('it is closed in the table', async () => {
      const [row] = await sql(`select closed is not null closed from example_ops.incidents where title like 'The postman%'`);
      return row!.closed === true;
    });
    await sql(`select pgcast.publish('ops:log:api', 'line', '{"level": "error", "text": "the test has come"}')`);
    await a.check('#errors');
    await a.locator('#log li', { hasText: 'the test has come' }).waitFor();
    expect(await a.locator('#log li:not(.error)').count()).toBe(0);
    await a.context().close();
  });

  test('the list leads to each of them', async () => {
    const page = await (await browser.profile(phone)).newPage();
    await page.goto(`${shared.url}/examples/`);
    const links = await page.locator('main a').evaluateAll((all) => all.map((a) => (a as HTMLAnchorElement).href));
    expect(links).toEqual(['chat', 'board', 'kanban', 'ops'].map((name) => `${shared.url}/examples/${name}/`));
    await close('list', page);
  });
});
