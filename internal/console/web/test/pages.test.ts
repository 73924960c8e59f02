// Each page of the console does what it is there for: real clicks, against a real server.
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { findChromium, until } from '../../../../client/js/browser/harness.js';
import { client, endSQL, figure, openTopic, seed, shared, sql, World } from './world.js';

describe.skipIf(!findChromium())('the console', () => {
  let world: World;
  beforeAll(async () => {
    world = await World.start();
    await seed();
  });
  afterEach(() => {
    expect(world.browser.takeErrors()).toEqual([]);
    expect(world.foreign.splice(0)).toEqual([]);
    expect(world.said.splice(0)).toEqual([]);
  });
  afterAll(async () => {
    await world?.close();
    await endSQL();
  });

  test('the overview has charts with figures, and words for who does not see them', async () => {
    const rt = client('Ann');
    const heard: number[] = [];
    rt.topic('overview.seen').on('event', (e) => heard.push(e.seq));
    const page = await world.open();
    for (let i = 0; i < 5; i++) await sql(`select pgcast.publish('overview.seen', 'tick', '{}')`);
    await until('events at the client', () => heard.length === 5);
    await page.locator('.chart-card canvas').nth(5).waitFor();
    const sessions = page.getByRole('region', { name: 'Sessions' });
    await until('the sessions in the figure', async () => Number(await sessions.locator('.figure-value').first().innerText()) >= 1);
    await until('a delivery in the figures', async () => !(await page.getByRole('region', { name: 'Commit to delivery' }).locator('.figure-value').first().innerText()).startsWith('–'));
    expect(await page.getByRole('img', { name: /Commit to delivery.*Now: p50/ }).count()).toBe(1);
    expect(await page.getByRole('table', { name: /charts in figures/ }).locator('tbody tr').count()).toBeGreaterThan(0);
    // Where one chart is pointed at, all tell of that moment.
    const box = (await page.locator('.chart-card .u-over').first().boundingBox())!;
    await page.mouse.move(box.x + box.width - 8, box.y + 40);
    await page.getByText(/^At \d{4}-/).waitFor();
    rt.close();
    await page.context().close();
  });

  test('topics are found, more are shown, and links lead to them', async () => {
    const page = await world.open('#/topics');
    const rows = page.getByRole('table', { name: 'Topics' }).locator('tbody tr');
    await until('the first page', async () => (await rows.count()) === 100);
    await page.getByRole('button', { name: 'Show more' }).click();
    await until('the rest', async () => (await rows.count()) > 130);
    await page.keyboard.press('/');
    await page.keyboard.type('ROOM:1');
    await until('what was searched', async () => (await rows.count()) === 1);
    await page.getByRole('link', { name: 'room:1' }).click();
    await page.getByRole('heading', { name: 'room:1' }).waitFor();
    await page.context().close();
  });

  test('a write in SQL appears in the tail; paused, events are counted and shown afterwards', async () => {
    const page = await openTopic(world, 'room:1');
    const first = page.locator('.row:not(.notice)').first();
    await sql(`insert into messages (room_id, author, body) values (1, 'ann', 'seen live')`);
    await until('the row in the tail', async () => (await first.innerText()).includes('seen live'));
    await page.getByRole('button', { name: 'Pause' }).click();
    await sql(`insert into messages (room_id, author, body) select 1, 'bob', 'while paused ' || g from generate_series(1, 3) g`);
    await page.getByRole('button', { name: '3 new events' }).waitFor();
    expect(await first.innerText()).toContain('seen live');
    await page.keyboard.press('p');
    await until('what came meanwhile', async () => (await first.innerText()).includes('while paused 3'));
    expect(await page.locator('.missed').count()).toBe(0);
    expect(await figure(page, 'data-count')).toBeGreaterThanOrEqual(4);
    await page.context().close();
  });

  test('an update shows what changed, with the old values that were captured', async () => {
    const page = await openTopic(world, 'orders:customer:3');
    await page.locator('.row:has(.row-event.updated)').first().click();
    const changed = page.locator('.diff tr.changed');
    await until('two changed columns', async () => (await changed.count()) === 2);
    expect(await changed.filter({ hasText: 'status' }).innerText()).toMatch(/new\s+paid/);
    await page.getByRole('button', { name: 'Data', exact: true }).click();
    await page.locator('.json-name', { hasText: 'total' }).waitFor();
    await page.getByRole('button', { name: 'Event', exact: true }).last().click();
    await page.locator('.json pre', { hasText: '"seq"' }).waitFor();
    await page.context().close();
  });

  test('where old values are not captured, the row’s event before has them', async () => {
    const page = await openTopic(world, 'room:2');
    await sql(`insert into messages (room_id, author, body) values (2, 'cem', 'first')`);
    await sql(`update messages set body = 'second' where body = 'first'`);
    await page.locator('.row', { hasText: 'second' }).first().click();
    await page.getByText(/those of event/).waitFor();
    expect(await page.locator('.diff tr.changed').innerText()).toMatch(/first\s+second/);
    await page.context().close();
  });

  test('time travel goes to a seq, to a time, and back to live', async () => {
    for (let i = 1; i <= 3; i++) await sql(`select pgcast.publish('travel', 'step', jsonb_build_object('n', g)) from generate_series($1::int, $2::int) g`, [i * 100 - 99, i * 100]);
    const page = await openTopic(world, 'travel');
    await page.getByRole('button', { name: 'Time travel' }).click();
    await page.locator('[name=seq]').fill('42');
    await page.locator('[name=seq]').press('Enter');
    const chosen = page.locator('.row[aria-selected=true]');
    await until('event 42', async () => (await chosen.count()) === 1 && (await chosen.innerText()).startsWith('42\n'));
    expect(await page.locator('.side-inside').innerText()).toContain('42');
    await page.locator('[name=travel]').fill('250');
    await until('event 250', async () => (await chosen.count()) === 1 && (await chosen.innerText()).startsWith('250\n'));
    const [row] = await sql(`select created_at from pgcast.history where topic = 'travel' and seq = 101`);
    // The browser's field has seconds; the first event of a second that begins before them all is 1.
    const time = new Date(Math.floor((row!.created_at as Date).getTime() / 1000) * 1000 - 60_000);
    const local = new Date(time.getTime() - time.getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
    await page.locator('[name=time]').fill(local);
    await until('event 1', async () => (await chosen.count()) === 1 && (await chosen.innerText()).startsWith('1\n'));
    await page.getByRole('button', { name: 'Live', exact: true }).click();
    await sql(`select pgcast.publish('travel', 'now', '{}')`);
    await until('the newest event', async () => (await page.locator('.row').first().innerText()).includes('now'));
    await page.context().close();
  });

  test('publishing checks the JSON, and the event is in Postgres once', async () => {
    const page = await openTopic(world, 'room:published');
    await page.locator('[name=data]').fill('{"a": ');
    await page.getByText(/Not JSON yet/).waitFor();
    await page.getByRole('button', { name: 'Publish', exact: true }).last().click();
    await page.getByText('Give the event a name.').waitFor();
    await page.locator('[name=event]').fill('greeting');
    await page.locator('[name=data]').fill('{"a": 1}');
    await page.locator('[name=key]').fill('once');
    await page.keyboard.press('Control+Enter');
    await page.getByText(/Published greeting/).waitFor();
    await until('the event in the tail', async () => (await page.locator('.row', { hasText: 'greeting' }).count()) === 1);
    // What is written into the form outlives a look at an event.
    await page.locator('[name=data]').fill('{"half": "written"}');
    await page.locator('.row', { hasText: 'greeting' }).click();
    await page.locator('.event-view').waitFor();
    await page.getByRole('button', { name: 'Publish', exact: true }).first().click();
    expect(await page.locator('[name=data]').inputValue()).toBe('{"half": "written"}');
    expect(await sql(`select event, data from pgcast.history where topic = 'room:published'`)).toEqual([{ event: 'greeting', data: { a: 1 } }]);
    await page.context().close();
  });

  test('who is here, and their cursors, are shown as they come and go', async () => {
    const page = await openTopic(world, 'room:3');
    await page.getByRole('button', { name: 'People' }).click();
    const rt = client('Dana');
    const topic = rt.topic('room:3');
    await topic.presence.join({ id: 'dana', name: 'Dana' });
    const present = page.getByRole('region', { name: 'Present' });
    await present.getByText('Dana', { exact: true }).waitFor();
    topic.cursors.move({ x: 4, y: 7 });
    await page.getByRole('region', { name: 'Cursors' }).getByText('"x":4').waitFor();
    await topic.presence.leave();
    await until('Dana has gone', async () => (await present.getByText('Dana', { exact: true }).count()) === 0);
    rt.close();
    await page.context().close();
  });

  test('a table is attached after its SQL was shown, writes events, and is detached', async () => {
    await sql(`create table notes (id int primary key, owner text, body text)`);
    const page = await world.open('#/tables');
    await page.getByRole('region', { name: 'Drift' }).getByText('stale').first().waitFor();
    await page.getByRole('searchbox', { name: 'Search tables' }).fill('notes');
    await page.getByRole('button', { name: /^Attach .*notes$/ }).click();
    const dialog = page.getByRole('dialog');
    await dialog.locator('[name=topic]').fill('notes:{nobody}');
    await dialog.getByText(/has no column nobody/).waitFor();
    expect(await dialog.getByRole('button', { name: 'Show the SQL' }).isDisabled()).toBe(true);
    await dialog.locator('[name=topic]').fill('notes');
    await dialog.getByRole('button', { name: '{owner}' }).click();
    expect(await dialog.locator('[name=topic]').inputValue()).toBe('notes:{owner}');
    await dialog.getByRole('checkbox', { name: /Old values/ }).check();
    await dialog.getByRole('button', { name: 'Show the SQL' }).click();
    await dialog.getByLabel('the call', { exact: true }).getByText(/pgcast\.attach\(/).waitFor();
    await dialog.getByLabel('the statements', { exact: true }).getByText(/trigger/i).first().waitFor();
    expect((await sql(`select count(*)::int as n from pgcast.attached where tbl = 'notes'::regclass`).catch(() => [{ n: 0 }]))[0]!.n).toBe(0);
    await dialog.getByRole('button', { name: 'Run', exact: true }).click();
    await page.getByText(/notes is attached/).waitFor();
    const row = page.getByRole('table', { name: 'Tables' }).locator('tr', { hasText: 'notes:{owner}' });
    await row.getByText('attached', { exact: true }).waitFor();
    await sql(`insert into notes values (1, 'ann', 'hello')`);
    await until('its event', async () => (await sql(`select event from pgcast.history where topic = 'notes:ann'`)).length === 1);
    await row.getByRole('button', { name: /^Detach/ }).click();
    await dialog.getByText(/become events no longer/).waitFor();
    await dialog.getByRole('button', { name: 'Detach', exact: true }).click();
    await page.getByText(/notes is detached/).waitFor();
    await sql(`insert into notes values (2, 'ann', 'unheard')`);
    expect(await sql(`select event from pgcast.history where topic = 'notes:ann'`)).toHaveLength(1);
    await page.context().close();
  });

  test('a session is shown with who it is, and disconnected; its client comes back', async () => {
    const rt = client('Zoe');
    const states: string[] = [];
    rt.status.subscribe((s) => states.push(s.state));
    rt.topic('room:4').on('event', () => {});
    const page = await world.open('#/sessions');
    const row = page.getByRole('table', { name: 'Sessions' }).locator('tr', { hasText: 'Zoe' });
    await row.getByRole('link', { name: 'room:4' }).waitFor();
    await page.getByRole('searchbox', { name: 'Search sessions' }).fill('zoe');
    await until('only her', async () => (await page.getByRole('table', { name: 'Sessions' }).locator('tbody tr').count()) === 1);
    await row.getByRole('button', { name: /^Disconnect/ }).click();
    const before = states.length;
    await page.getByRole('dialog').getByRole('button', { name: 'Disconnect', exact: true }).click();
    await page.getByText('Zoe is disconnected').waitFor();
    await until('her client to come back', () => states.slice(before).includes('connecting') && states.at(-1) === 'online');
    rt.close();
    await page.context().close();
  });

  test('health has what is broken first, with what mends it', async () => {
    const page = await world.open('#/health');
    const broken = page.locator('.findings').first();
    await broken.getByRole('heading', { name: 'Broken' }).waitFor();
    await broken.getByText(/enable always trigger/).first().waitFor();
    await page.getByRole('button', { name: 'Look again' }).click();
    await page.getByRole('button', { name: 'Look again' }).waitFor();
    await page.context().close();
  });

  test('the docs are read, and headings are gone to', async () => {
    const page = await world.open('#/docs/protocol');
    await page.getByRole('heading', { name: 'The wire protocol' }).waitFor();
    await page.getByRole('navigation', { name: 'On this page' }).getByRole('link', { name: 'Keeping a place' }).click();
    await until('the heading at the top', () => page.locator('#keeping-a-place').evaluate((e) => Math.abs(e.getBoundingClientRect().top) < 120));
    await page.getByRole('searchbox', { name: 'Search titles' }).fill('architecture');
    const found = page.getByRole('navigation', { name: 'Docs' }).getByRole('link');
    await until('the only page of that title', async () => (await found.count()) === 1);
    await found.click();
    await page.getByRole('heading', { level: 1, name: /architecture/i }).first().waitFor();
    expect(page.url()).toContain(shared.admin);
    await page.context().close();
  });
});
