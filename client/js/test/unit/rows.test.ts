import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { rows, type Rows, type RowsOptions } from '../../src/rows.js';
import type { EventItem } from '../../src/types.js';
import { Loop } from './loop.js';

interface Row {
  id: number;
  text: string;
}

const row = (id: number, text = `row ${id}`): Row => ({ id, text });

/** A table that listens, with what it was told. */
function live(options: RowsOptions<any> = {}): { loop: Loop; table: Rows<any>; told: any[]; end: () => void } {
  const { loop, topic } = Loop.make();
  const table = rows<any, any>(topic, options);
  const told: any[] = [];
  const end = table.subscribe((view) => told.push(view));
  return { loop, table, told, end };
}

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

describe('the fold', () => {
  test('a snapshot in parts, then events', () => {
    const { loop, table } = live();
    expect(table.get()).toMatchObject({ rows: [], state: 'loading' });
    loop.subscribed();
    loop.part({ rows: [{ id: 1, text: 'a' }], first: true, last: false });
    expect(table.get()).toMatchObject({ rows: [], state: 'loading' });
    loop.part({ rows: [{ id: 2, text: 'b' }], first: false, last: true });
    expect(table.get()).toMatchObject({ rows: [row(1, 'a'), row(2, 'b')], state: 'live' });

    loop.event('created', row(3, 'c'));
    loop.event('updated', row(1, 'A'), { old: { id: 1 } });
    loop.event('entered', row(4, 'd'), { old: { id: 4 } });
    loop.event('deleted', { id: 2 }, { old: { id: 2 } });
    expect(table.get().rows).toEqual([row(1, 'A'), row(3, 'c'), row(4, 'd')]);
    expect(table.row(3)).toEqual(row(3, 'c'));

    loop.event('gone', null, { old: { id: 4 } });
    loop.event('updated', row(9, 'c'), { old: { id: 3 } }); // the key itself has changed
    expect(table.get().rows).toEqual([row(1, 'A'), row(9, 'c')]);
    loop.event('typing', { id: 5 }); // published by hand: no row
    loop.event('gone', null, { old: {} }); // one of those that may not be seen
    expect(table.get().rows).toHaveLength(2);
    loop.event('deleted', { id: 9 }); // old was too large
    loop.event('truncated', { table: 'rows' });
    expect(table.get()).toMatchObject({ rows: [], state: 'live' });
    loop.event('created', row(1));
    loop.event('gone', null); // the table was dropped
    expect(table.get().rows).toEqual([]);
    expect(table.get().error).toBeUndefined();
  });

  test('gap and reset keep the rows until the new snapshot is complete, in their order', () => {
    const { loop, table } = live();
    loop.snapshot([row(1), row(2), row(3)]);
    for (const lost of [
      { type: 'gap', topic: 'loop', after: 3, tail: 9, head: 12 },
      { type: 'reset', topic: 'loop', head: 5 },
    ] as const) {
      loop.item(lost);
      expect(table.get()).toMatchObject({ rows: [row(1), row(2), row(3)], state: 'stale' });
      loop.part({ rows: [{ id: 3, text: 'row 3' }], first: true, last: false });
      loop.part({ rows: [{ id: 8, text: 'lost when it begins again' }], first: false, last: false });
      loop.part({ rows: [{ id: 4, text: 'row 4' }, { id: 3, text: 'row 3' }, { id: 1, text: 'row 1' }], first: true, last: false });
      expect(table.get()).toMatchObject({ rows: [row(1), row(2), row(3)], state: 'stale' });
      loop.part({ rows: [{ id: 2, text: 'row 2' }], first: false, last: true });
      expect(table.get().rows).toEqual([row(1), row(2), row(3), row(4)]);
      expect(table.get().state).toBe('live');
      loop.event('deleted', { id: 4 }, { old: { id: 4 } });
    }
  });

  test('keys of several members, and by a function', () => {
    const several = live({ key: ['a', 'b'] });
    several.loop.snapshot([{ a: 1, b: 1, n: 1 }, { a: 1, b: 2, n: 2 }]);
    several.loop.event('updated', { a: 1, b: 2, n: 3 }, { old: { a: 1, b: 2 } });
    several.loop.event('deleted', { a: 1, b: 1 }, { old: { a: 1, b: 1 } });
    expect(several.table.get().rows).toEqual([{ a: 1, b: 2, n: 3 }]);
    expect(several.table.row('[1,2]')).toEqual({ a: 1, b: 2, n: 3 });

    const made = live({ key: (of: { a: { b: string } }) => of.a.b });
    made.loop.snapshot([{ a: { b: 'x' }, n: 1 }]);
    made.loop.event('deleted', null, { old: { a: { b: 'x' } } });
    expect(made.table.get().rows).toEqual([]);
  });

  test('a key that rows or old keys do not have is told, not guessed', () => {
    const { loop, table } = live({ key: 'slug' });
    loop.snapshot([row(1)]);
    expect(table.get().rows).toEqual([]);
    expect(table.get().error?.message).toMatch(/rows of loop: .*"id":1.* say with key/);

    const other = live({ key: 'slug' });
    other.loop.snapshot([{ id: 1, slug: 'x' }]);
    expect(other.table.get().error).toBeUndefined();
    other.loop.event('deleted', null, { old: { id: 1 } });
    expect(other.table.get().error?.message).toMatch(/old => true/);
  });

  test('what cannot be applied has the rows read again, not more than once a second', () => {
    const { loop, table } = live();
    loop.snapshot([row(1)], { oversize: [{ id: 7 }] });
    expect(table.get().oversize).toEqual([{ id: 7 }]);
    for (const [event, more] of [['updated', { oversize: true }], ['altered', {}], ['recovered', {}], ['degraded', {}]] as const) {
      const before = loop.refreshed;
      loop.event(event, { table: 'rows' }, more);
      loop.event(event, { table: 'rows' }, more);
      expect(table.get()).toMatchObject({ rows: [row(1)], state: 'stale' });
      vi.advanceTimersByTime(1000);
      expect(loop.refreshed).toBe(before + 1);
      loop.snapshot([row(1)]);
      expect(table.get().state).toBe('live');
    }
    loop.snapshot([], { oversize: [{ id: 7 }] });
    loop.event('updated', row(7), { old: { id: 7 } }); // it has become small
    expect(table.get()).toMatchObject({ rows: [row(7)], oversize: [] });
  });

  test('a truncated table of several leaves the others to be read again', () => {
    const { loop } = live();
    loop.part({ rows: [{ id: 1 }], table: 'public.a', first: true, last: false });
    loop.part({ rows: [{ id: 2 }], table: 'public.b', first: false, last: true });
    loop.event('truncated', null);
    vi.advanceTimersByTime(0);
    expect(loop.refreshed).toBe(1);
  });

  test('a topic without a table: the newest event of each key', () => {
    const { loop, table } = live({ key: 'who' });
    const kept = (seq: number, event: string, data: unknown, more = {}) =>
      ({ type: 'event', topic: 'loop', event, data, seq, id: `e${seq}`, place: { after: seq }, ...more }) as unknown as EventItem;
    loop.place = undefined;
    loop.item({
      type: 'snapshot',
      topic: 'loop',
      rows: [],
      events: [kept(3, 'here', { who: 'ann' }), kept(4, 'said', 'no key'), kept(5, 'here', undefined, { oversize: true })],
      oversize: [],
      first: true,
      last: true,
      place: { after: 5 },
    });
    loop.place = { after: 5 };
    expect(table.get()).toMatchObject({ rows: [{ who: 'ann' }, 'no key'], oversize: [{ id: 'e5', seq: 5 }] });
    loop.event('moved', { who: 'ann', x: 1 });
    loop.event('here', { who: 'bob' });
    expect(table.get().rows).toEqual([{ who: 'ann', x: 1 }, 'no key', { who: 'bob' }]);
    loop.event('deleted', { who: 'ann' });
    expect(table.get().rows).toEqual(['no key', { who: 'bob' }]);
    loop.event('truncated', null);
    expect(table.get().rows).toEqual([]);
    expect(table.get().error).toBeUndefined();
  });
});

describe('the store', () => {
  test('a listener that throws is reported; the others are told, and writes are made', async () => {
    const reported = vi.spyOn(console, 'error').mockImplementation(() => {});
    const { loop, table, told } = live();
    table.subscribe(() => {
      throw new Error('broken');
    });
    const after: unknown[] = [];
    table.subscribe((view) => after.push(view));
    loop.snapshot([row(1)]);
    const send = vi.fn(async () => undefined);
    await table.write({ put: row(2) }, send);
    expect(send).toHaveBeenCalledOnce();
    expect(told.at(-1).rows).toEqual([row(1), row(2)]);
    expect(after.at(-1)).toBe(told.at(-1));
    expect(reported).toHaveBeenCalledWith(new Error('broken'));
    reported.mockRestore();
  });

  test('views do not change, and are the same as long as nothing changes', () => {
    const { loop, table } = live();
    loop.snapshot([row(1)]);
    const view = table.get();
    expect(table.get()).toBe(view);
    loop.event('created', row(2));
    expect(view.rows).toEqual([row(1)]);
    expect(table.get()).not.toBe(view);
  });

  test('a burst is told once, and many of them once a frame', async () => {
    const { loop, told } = live();
    loop.snapshot([]);
    await vi.advanceTimersByTimeAsync(20);
    const before = told.length;
    for (let i = 0; i < 100; i++) loop.event('created', row(i));
    expect(told).toHaveLength(before);
    await vi.advanceTimersByTimeAsync(0);
    expect(told).toHaveLength(before + 1);
    expect(told.at(-1)!.rows).toHaveLength(100);
    for (let ms = 0; ms < 160; ms++) {
      loop.event('updated', row(1, `${ms}`), { old: { id: 1 } });
      await vi.advanceTimersByTimeAsync(1);
    }
    expect(told.length - before).toBeLessThanOrEqual(12);
    await vi.advanceTimersByTimeAsync(16);
    expect(told.at(-1)!.rows[1]).toEqual(row(1, '159'));
  });

  test('sort gives an order of its own to those who ask for it', () => {
    const { loop, topic } = Loop.make();
    const plain = rows<any, Row>(topic);
    const sorted = rows<any, Row>(topic, { sort: (a, b) => a.text.localeCompare(b.text) });
    plain.subscribe(() => {});
    loop.snapshot([row(1, 'b'), row(2, 'a')]);
    expect(plain.get().rows.map((r) => r.id)).toEqual([1, 2]);
    expect(sorted.get().rows.map((r) => r.id)).toEqual([2, 1]);
    expect(sorted.get()).toBe(sorted.get());
  });

  test('it is stale while there is no connection, and denied when it may not be read', () => {
    const { loop, table } = live();
    loop.subscribed();
    loop.snapshot([row(1)]);
    expect(table.get().state).toBe('live');
    loop.online(false);
    expect(table.get().state).toBe('stale');
    loop.online(true);
    expect(table.get().state).toBe('stale');
    loop.subscribed(true);
    expect(table.get().state).toBe('live');
    loop.item({ type: 'denied', topic: 'loop', reason: 'FORBIDDEN' });
    expect(table.get()).toMatchObject({ state: 'denied', error: { code: 'FORBIDDEN' } });
    loop.subscribed(true);
    expect(table.get()).toMatchObject({ state: 'live' });
    expect(table.get().error).toBeUndefined();
  });

  test('who comes and goes in one breath keeps it, who comes back goes on, who missed something begins anew', async () => {
    const { loop, table, end } = live();
    loop.snapshot([row(1)], { seq: 5 });
    end();
    const again = table.subscribe(() => {});
    await Promise.resolve();
    expect(loop.listening).toBe(6);
    again();
    await Promise.resolve();
    expect(loop.listening).toBe(0);

    const back = table.subscribe(() => {});
    expect(loop.refreshed).toBe(0);
    loop.subscribed(true);
    loop.event('created', row(2));
    expect(table.get()).toMatchObject({ rows: [row(1), row(2)], state: 'live' });
    back();
    await Promise.resolve();
    loop.event('created', row(3)); // to others who listen
    table.subscribe(() => {});
    expect(loop.refreshed).toBe(1);
    expect(table.get()).toMatchObject({ rows: [row(1), row(2)], state: 'stale' });
    loop.part({ rows: [{ id: 1 }], first: false, last: false }); // the end of a part that began earlier
    loop.snapshot([row(1), row(2), row(3)], { parts: true });
    expect(table.get()).toMatchObject({ rows: [row(1), row(2), row(3)], state: 'live' });
  });

  test('a topic without snapshot is refused', () => {
    const { topic } = Loop.make();
    (topic as any).options = {};
    expect(() => rows(topic)).toThrow('rt.topic("loop", { snapshot: true })');
  });
});
