import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { fresh } from '../test/harness/shared.js';
import { findChromium, until } from './harness.js';
import { connect, listen, range, seen, status, World } from './world.js';

describe.skipIf(!findChromium())('the client in a browser', () => {
  let world: World;
  beforeAll(async () => {
    world = await World.start();
  });
  afterAll(() => world?.close());
  afterEach(() => expect(world.browser.takeErrors()).toEqual([]));

  test('a page that is loaded again resumes from IndexedDB', async () => {
    const topic = fresh('reload');
    const profile = await world.browser.profile();
    const page = await profile.newPage();
    await connect(page, world, {}, true);
    await listen(page, topic);
    await until('it has begun', async () => (await seen(page, topic)).notices.length === 1);
    await world.write(topic, 5);
    await until('it is told', async () => (await seen(page, topic)).seqs.length === 5);
    const key = `${new URL(world.server.url).host}/${topic}`;
    await until('the place is kept', async () => (await page.evaluate((name) => window.tests.stored(name), key)) === 5);
    await page.goto('about:blank');
    await world.write(topic, 5);
    await connect(page, world, {}, true);
    await listen(page, topic);
    await until('it is told the rest', async () => (await seen(page, topic)).seqs.length >= 5);
    const { seqs, notices } = await seen(page, topic);
    expect(seqs).toEqual(range(6, 10));
    expect(notices).toEqual(['subscribed 5']);
    await profile.close();
  });

  test('waits while there is no network, and goes on when there is', async () => {
    const topic = fresh('offline');
    const profile = await world.browser.profile();
    const page = await profile.newPage();
    world.browser.expect(page, /ERR_INTERNET_DISCONNECTED/);
    await connect(page, world, { share: false });
    await listen(page, topic, { after: 0 });
    await world.write(topic, 3);
    await until('it is told', async () => (await seen(page, topic)).seqs.length === 3);
    await profile.setOffline(true);
    await page.evaluate(() => window.rt.cut());
    await until('it says so', async () => (await status(page)).startsWith('offline'));
    await world.write(topic, 3);
    expect((await seen(page, topic)).seqs).toHaveLength(3);
    await profile.setOffline(false);
    await until('it is told the rest', async () => (await seen(page, topic)).seqs.length === 6);
    expect((await seen(page, topic)).seqs).toEqual(range(1, 6));
    expect(await status(page)).toBe('online websocket');
    await profile.close();
  });

  test.each([false, true])('where no WebSocket gets through it goes over SSE (shared: %s)', async (share) => {
    const topic = fresh('sse');
    const profile = await world.browser.profile();
    const page = await profile.newPage();
    world.browser.expect(page, /Content Security Policy|violates/);
    // The page's and the worker's policy: HTTP is allowed, a WebSocket is not.
    world.headers['Content-Security-Policy'] = `default-src 'self'; connect-src 'self' ${world.server.url}`;
    try {
      await connect(page, world, { share });
      await listen(page, topic, { after: 0 });
      await until('it has begun', async () => (await seen(page, topic)).notices.length >= 1);
      await world.write(topic, 10);
      await until('it is told', async () => (await seen(page, topic)).seqs.length >= 10);
      expect((await seen(page, topic)).seqs).toEqual(range(1, 10));
      expect(await status(page)).toBe(share ? 'online shared' : 'online sse');
    } finally {
      delete world.headers['Content-Security-Policy'];
    }
    await profile.close();
  });

  test('a worker that the page’s policy forbids is done without', async () => {
    const topic = fresh('noworker');
    const profile = await world.browser.profile();
    const page = await profile.newPage();
    world.browser.expect(page, /Content Security Policy|violates/);
    world.headers['Content-Security-Policy'] = "worker-src 'none'";
    try {
      await connect(page, world);
      await listen(page, topic, { after: 0 });
      await world.write(topic, 3);
      await until('it is told', async () => (await seen(page, topic)).seqs.length === 3);
      expect(await status(page)).toBe('online websocket');
    } finally {
      delete world.headers['Content-Security-Policy'];
    }
    await profile.close();
  });
});
