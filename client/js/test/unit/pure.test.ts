import { describe, expect, it } from 'vitest';
import { endpoint } from '../../src/address.js';
import { backoff } from '../../src/backoff.js';
import { isPattern, overlaps } from '../../src/names.js';
import { queueOf } from '../../src/queue.js';
import { httpBase } from '../../src/sse.js';
import { memoryStorage } from '../../src/storage.js';
import { storeOf } from '../../src/store.js';
import { topicOf } from '../../src/topic.js';
import type { Link, Wanted } from '../../src/link.js';
import type { EventItem, Item, Status } from '../../src/types.js';

describe('pauses', () => {
  it('doubles up to the longest, and is cut by half at most', () => {
    for (const [random, part] of [[0, 0.5], [1, 1]] as const) {
      const pauses = backoff(100, 1000, () => random);
      expect([1, 2, 3, 4, 5, 6].map(() => pauses.pause())).toEqual([100, 200, 400, 800, 1000, 1000].map((n) => n * part));
      pauses.reset();
      expect(pauses.pause()).toBe(100 * part);
      expect(pauses.pause(true)).toBe(1000 * part);
    }
  });
});

describe('names', () => {
  it.each([
    ['room:1', 'room:1', true],
    ['room:1', 'room:2', false],
    ['room:*', 'room:1', true],
    ['room:*', 'room:1:typing', false],
    ['room:**', 'room:1:typing', true],
    ['room:**', 'room', false],
    ['**', 'room', true],
    ['*:1', 'room:*', true],
    ['*:1', 'room:2', false],
    ['a:*:c', 'a:**', true],
    ['a:*', 'b:**', false],
  ])('%s and %s overlap: %s', (a, b, want) => {
    expect(overlaps(a, b)).toBe(want);
    expect(overlaps(b, a)).toBe(want);
  });

  it('tells patterns from topics', () => {
    expect(['room:*', '**', 'a:*:b'].every(isPattern)).toBe(true);
    expect(['room:1', 'a*', 'room:**x'].some(isPattern)).toBe(false);
  });
});

describe('addresses', () => {
  it.each([
    ['http://localhost:8080', 'ws://localhost:8080/ws', 'http://localhost:8080'],
    ['wss://example.com/live/ws', 'wss://example.com/live/ws', 'https://example.com/live'],
    ['https://example.com/?ticket=x', 'wss://example.com/ws?ticket=x', 'https://example.com'],
  ])('%s', (address, socket, http) => {
    expect(endpoint(address).href).toBe(socket);
    expect(httpBase(endpoint(address))).toBe(http);
  });

  it.each(['', '/ws', 'ftp://example.com', 'localhost'])('refuses %j', (address) => {
    expect(() => endpoint(address)).toThrow('is not a server');
  });
});

describe('Store', () => {
  it('tells each who subscribed, and begins and ends with the first and the last', () => {
    const log: unknown[] = [];
    const store = storeOf(1, () => {
      log.push('begin');
      return () => log.push('end');
    });
    const one = store.subscribe((value) => log.push(['one', value]));
    const two = store.subscribe((value) => log.push(['two', value]));
    store.set(2);
    store.set(2);
    one();
    one();
    store.set(3);
    two();
    expect(log).toEqual(['begin', ['one', 1], ['two', 1], ['one', 2], ['two', 2], ['two', 3], 'end']);
    expect(store.get()).toBe(3);
  });
});

describe('a queue', () => {
  it('gives what came in order, then ends', async () => {
    const queue = queueOf<number>(() => {}, () => {});
    const early = queue.next();
    queue.push(1, undefined);
    queue.push(2, { after: 1 });
    expect(queue.waiting[0]!.before).toEqual({ after: 1 });
    queue.end();
    queue.push(3, { after: 2 });
    expect([await early, await queue.next(), await queue.next()].map((one) => one.value as unknown)).toEqual([1, 2, undefined]);
  });

  it('fails once, behind what waits', async () => {
    const queue = queueOf<number>(() => {}, () => {});
    queue.push(1, undefined);
    queue.end(new Error('refused'));
    expect((await queue.next()).value).toBe(1);
    await expect(queue.next()).rejects.toThrow('refused');
    expect((await queue.next()).done).toBe(true);
  });
});

/** A link that hands over seqs by hand, and remembers what was opened. */
function handLink(): { link: Link; opened: Wanted[]; give: (seq: number) => boolean } {
  const opened: Wanted[] = [];
  let take: ((item: Item) => void) | undefined;
  const link = {
    status: storeOf<Status>({ state: 'online', degraded: [] }),
    open: (wanted: Wanted, to: (item: Item) => void) => {
      opened.push(wanted);
      take = to;
      return { close: () => (take = undefined) };
    },
  } as unknown as Link;
  const give = (seq: number): boolean => {
    if (!take) return false;
    const place = { after: seq, id: `id${seq}` };
    take({ type: 'event', topic: 't', event: 'e', data: seq, seq, id: place.id, place } as EventItem);
    return true;
  };
  return { link, opened, give };
}

describe('an iteration that falls behind', () => {
  it('ends the subscription at its bound, and goes on where it was once all is taken', async () => {
    const { link, opened, give } = handLink();
    const topic = topicOf(link, 't', { after: 0 }, 3, undefined, () => {});
    const events = topic.events();
    const seen: number[] = [];
    const next = async (): Promise<void> => void seen.push((await events.next()).value.seq as number);
    for (let seq = 1; give(seq); seq++);
    expect(topic.place).toEqual({ after: 0 });
    await next();
    expect(topic.place).toEqual({ after: 1, id: 'id1' });
    await next();
    expect(opened).toHaveLength(1);
    await next();
    expect(opened.map((one) => one.place)).toEqual([{ after: 0 }, { after: 3, id: 'id3' }]);
    expect(give(4)).toBe(true);
    await next();
    expect(seen).toEqual([1, 2, 3, 4]);
  });

  it('is not waited for once it was left', async () => {
    const { link, opened, give } = handLink();
    const topic = topicOf(link, 't', { after: 0 }, 2, undefined, () => {});
    const seen: unknown[] = [];
    topic.on('e', ((event: EventItem) => seen.push(event.seq)) as never);
    const slow = topic.events();
    for (let seq = 1; give(seq); seq++);
    await slow.return!();
    expect(opened).toHaveLength(2);
    give(3);
    expect(seen).toEqual([1, 2, 3]);
  });

  it('passes no handler over because another one throws', () => {
    const { link, give } = handLink();
    const topic = topicOf(link, 't', { after: 0 }, 10, undefined, () => {});
    const seen: unknown[] = [];
    const errors: unknown[] = [];
    const { error } = console;
    console.error = (what: unknown) => errors.push(what);
    try {
      topic.on('event', (() => {
        throw new Error('a handler that fails');
      }) as never);
      topic.on('e', ((event: EventItem) => seen.push(event.seq)) as never);
      give(1);
      give(2);
    } finally {
      console.error = error;
    }
    expect(seen).toEqual([1, 2]);
    expect(errors).toHaveLength(2);
  });
});

describe('a place that is kept', () => {
  it('is where the topic begins', async () => {
    const storage = memoryStorage();
    await storage.set('host/t', { after: 7, id: 'id7' });
    const { Saver } = await import('../../src/places.js');
    const saver = new Saver(storage, 'host', (error) => {
      throw error as Error;
    });
    const { link, opened, give } = handLink();
    const begun = new Promise<void>((resolve) => {
      const { open } = link;
      link.open = (...args) => (resolve(), open(...args));
    });
    const topic = topicOf(link, 't', {}, 10, Promise.resolve(saver), () => {});
    topic.on('event', (() => {}) as never);
    await begun;
    expect(opened).toEqual([{ topic: 't', place: { after: 7, id: 'id7' } }]);
    give(8);
    saver.close();
    expect(await storage.get('host/t')).toEqual({ after: 8, id: 'id8' });
  });
});
