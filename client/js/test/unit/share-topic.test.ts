// Listeners of a shared topic that have had enough while they are told: they are out, for good.
import { expect, test } from 'vitest';
import type { Frame, Link } from '../../src/link.js';
import { type Listener, SharedTopic } from '../../src/share-topic.js';
import type { EventItem, Item } from '../../src/types.js';

const topic = 'room:1';
const subscribed = (seq: number): Item => ({ type: 'subscribed', topic, seq, resumed: true });
const event = (seq: number): EventItem => ({ type: 'event', topic, event: 'x', data: seq, seq, id: `i${seq}`, place: { after: seq, id: `i${seq}` } });

/** A shared topic whose items this test gives. */
function at(head: number): { shared: SharedTopic; give: Item[]['push']; over: () => boolean } {
  let take: (item: Item) => void = () => {};
  let over = false;
  const link = {
    open: (_: unknown, told: (item: Item) => void) => ((take = told), { close() {} }),
    request: (): Promise<Frame> => Promise.resolve({ head }),
  } as unknown as Link;
  const shared = new SharedTopic(link, { topic, place: { after: 0 } }, () => (over = true), () => {});
  return {
    shared,
    give: (...items) => {
      for (const item of items) take(item);
      return items.length;
    },
    over: () => over,
  };
}

/** A listener that leaves at the first item, as one whose tab takes nothing is made to. */
function full(leave: (listener: Listener) => void): Listener {
  const listener: Listener = { take: () => leave(listener), lost() {} };
  return listener;
}

test('while it is moved to another subscription', () => {
  const [early, late] = [at(2), at(2)];
  const listener = full((one) => late.shared.remove(one));
  late.give(subscribed(0));
  late.shared.add(listener);
  early.give(subscribed(0), event(1), event(2));
  expect(late.shared.moveTo(early.shared)).toBe(true);
  expect(early.shared.has(listener)).toBe(false);
  expect(late.over()).toBe(true);
});

test('with the answer that it begins with', async () => {
  const one = at(5); // the log is further than the subscription
  const listener = full((each) => one.shared.remove(each));
  one.give(subscribed(0), event(1));
  expect(one.shared.join({ topic }, undefined, listener)).toBe(true);
  await expect.poll(() => one.over()).toBe(true);
  expect(one.shared.has(listener)).toBe(false);
});
