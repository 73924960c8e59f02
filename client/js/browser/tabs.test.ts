import type { Page } from 'playwright-core';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { pause } from '../test/harness/server.js';
import { fresh } from '../test/harness/shared.js';
import { findChromium, until } from './harness.js';
import { connect, count, listen, range, seen, status, World } from './world.js';

describe.skipIf(!findChromium())('tabs of one browser', () => {
  let world: World;
  beforeAll(async () => {
    world = await World.start();
  });
  afterAll(() => world?.close());
  afterEach(() => expect(world.browser.takeErrors()).toEqual([]));

  test('share one connection, and each gets every event once and in order', async () => {
    const topic = fresh('tabs');
    const profile = await world.browser.profile();
    const [a, b] = [await profile.newPage(), await profile.newPage()];
    for (const page of [a, b]) {
      await connect(page, world);
      await listen(page, topic, { after: 0 });
    }
    await until('both are there', async () => (await status(a)) === 'online shared' && (await status(b)) === 'online shared');
    await world.write(topic, 20);
    for (const page of [a, b]) await until('all are there', async () => (await seen(page, topic)).seqs.length >= 20);
    expect(await world.sessions()).toBe(1);
    for (const page of [a, b]) expect((await seen(page, topic)).seqs).toEqual(range(1, 20));
    await profile.close();
    await until('the session has ended', async () => (await world.sessions()) === 0);
  });

  test('come later, go, are loaded again and crash while somebody writes, and miss nothing', async () => {
    const topic = fresh('comings');
    const profile = await world.browser.profile();
    const tab = async (): Promise<Page> => {
      const page = await profile.newPage();
      await connect(page, world);
      await listen(page, topic, { after: 0 });
      return page;
    };
    let [written, writing] = [0, true];
    const writer = (async () => {
      while (writing) {
        await world.write(topic, 5);
        written += 5;
        await pause(30); // or the pages would have nothing else to do
      }
    })();
    const some = async (page: Page, more: number): Promise<void> => {
      const from = await count(page, topic);
      await until('more has come', async () => (await count(page, topic)) >= from + more);
    };
    const first = await tab();
    const second = await tab();
    await some(second, 10);
    await first.close({ runBeforeUnload: false });
    await some(second, 10);
    const third = await tab();
    await some(third, 10);
    await third.goto('about:blank');
    await connect(third, world);
    await listen(third, topic, { after: 0 });
    await some(third, 10);
    expect(await world.sessions()).toBe(1);
    const crashed = second.waitForEvent('crash');
    void (await profile.newCDPSession(second)).send('Page.crash').catch(() => {});
    await crashed;
    await some(third, 10);
    writing = false;
    await writer;
    await until('it is told all', async () => (await count(third, topic)) >= written);
    expect((await seen(third, topic)).seqs).toEqual(range(1, written));
    await profile.close();
    await until('no session is left', async () => (await world.sessions()) === 0);
  });

  test('see the same live table over the one connection, also who comes later', async () => {
    const table = fresh('cards').replaceAll('.', '_');
    await world.server.sql(`create table ${table} (id int primary key)`);
    await world.server.sql(`select pgcast.attach('${table}'::regclass, '${table}')`);
    await world.server.sql(`insert into ${table} values (1), (2)`);
    const profile = await world.browser.profile();
    const pages = [await profile.newPage(), await profile.newPage()];
    for (const [i, page] of pages.entries()) {
      await connect(page, world);
      await listen(page, table, { snapshot: true });
      await until('the snapshot is there', async () => (await seen(page, table)).rows.length === 2);
      await world.server.sql(`insert into ${table} values (${10 + i})`);
      await until('its change is told', async () => (await seen(page, table)).seqs.length === i + 1);
    }
    expect(await world.sessions()).toBe(1);
    const [one, other] = await Promise.all(pages.map((page) => seen(page, table)));
    expect(other).toEqual(one);
    await profile.close();
  });

  test('of different users, or that do not want to, do not share', async () => {
    const profile = await world.browser.profile();
    const topic = fresh('users');
    for (const [i, options] of [{ user: { id: 'ann' } }, { user: { id: 'bob' } }, { user: { id: 'ann' } }, { share: false }].entries()) {
      const page = await profile.newPage();
      await connect(page, world, options);
      await listen(page, topic);
      await until('it is there', async () => (await seen(page, topic)).notices.length === 1);
      expect(await status(page)).toBe(i === 3 ? 'online websocket' : 'online shared');
    }
    expect(await world.sessions()).toBe(3);
    await profile.close();
  });

  test('that are frozen go on where they were', async () => {
    const topic = fresh('frozen');
    const profile = await world.browser.profile();
    const [awake, frozen] = [await profile.newPage(), await profile.newPage()];
    for (const page of [awake, frozen]) {
      await connect(page, world);
      await listen(page, topic, { after: 0 });
      await until('it is there', async () => (await seen(page, topic)).notices.length === 1);
    }
    const cdp = await profile.newCDPSession(frozen);
    await cdp.send('Page.setWebLifecycleState', { state: 'frozen' });
    await world.write(topic, 30);
    await until('the other is told', async () => (await seen(awake, topic)).seqs.length === 30);
    await cdp.send('Page.setWebLifecycleState', { state: 'active' });
    await until('it is told', async () => (await seen(frozen, topic)).seqs.length === 30);
    for (const page of [awake, frozen]) expect((await seen(page, topic)).seqs).toEqual(range(1, 30));
    await profile.close();
  });
});
