import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { fresh } from '../test/harness/shared.js';
import { findChromium, until } from './harness.js';
import { connect, listen, range, seen, status, World } from './world.js';

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
});
