import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { type Change, rows, type Rows } from '../../src/rows.js';
import { Loop, random } from './loop.js';

interface Row {
  id: number;
  [member: string]: unknown;
}

/** A promise that is settled from outside, as an answer of a server is. */
function later<T>(): { promise: Promise<T>; resolve: (value: T) => void; reject: (error: Error) => void } {
  let resolve!: (value: T) => void;
  let reject!: (error: Error) => void;
  const promise = new Promise<T>((yes, no) => ([resolve, reject] = [yes, no]));
  return { promise, resolve, reject };
}

/** Lets what has been settled go on; time stands still. */
const pass = (): Promise<unknown> => vi.advanceTimersByTimeAsync(0);

function live(initial: Row[]): { loop: Loop; table: Rows<Row>; told: Row[][] } {
  const { loop, topic } = Loop.make();
  const table = rows<any, Row>(topic);
  const told: Row[][] = [];
  table.subscribe((view) => told.push([...view.rows]));
  loop.snapshot(initial);
  loop.subscribed(true);
  return { loop, table, told };
}

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

describe('one write', () => {
  test('is shown at once, and told at once', () => {
    const { table, told } = live([{ id: 1, done: false }]);
    void table.write({ patch: { id: 1, done: true } }, () => later<void>().promise);
    expect(told.at(-1)).toEqual([{ id: 1, done: true }]);
    expect(table.get().pending).toEqual(new Set([1]));
  });

  test('a failure takes back exactly its own change', async () => {
    const { loop, table } = live([{ id: 1, a: 0, b: 0 }]);
    const [first, second] = [later<void>(), later<void>()];
    const failing = table.write({ patch: { id: 1, a: 1 } }, () => first.promise);
    void table.write({ patch: { id: 1, b: 1 } }, () => second.promise);
    expect(table.row(1)).toEqual({ id: 1, a: 1, b: 1 });
    first.reject(new Error('no'));
    await expect(failing).rejects.toThrow('no');
    expect(table.row(1)).toEqual({ id: 1, a: 0, b: 1 });
    second.resolve();
    await pass();
    loop.event('updated', { id: 1, a: 0, b: 1 }, { old: { id: 1 } });
    expect(table.get()).toMatchObject({ rows: [{ id: 1, a: 0, b: 1 }], pending: new Set() });
  });

  test('send that throws before it gives a promise is a failure as well', async () => {
    const { table } = live([]);
    const failing = table.write({ put: { id: 1 } }, () => {
      throw new Error('offline');
    });
    await expect(failing).rejects.toThrow('offline');
    expect(table.get()).toMatchObject({ rows: [], pending: new Set() });
  });

  test('several changes stand and fall together', async () => {
    const { table } = live([{ id: 1, at: 1 }, { id: 2, at: 2 }]);
    const moved = later<void>();
    const failing = table.write([{ patch: { id: 1, at: 2 } }, { patch: { at: 1 }, key: 2 }, { remove: 3 }], () => moved.promise);
    expect(table.get().rows.map((row) => row.at)).toEqual([2, 1]);
    moved.reject(new Error('no'));
    await expect(failing).rejects.toThrow('no');
    expect(table.get().rows.map((row) => row.at)).toEqual([1, 2]);
  });

  test('a change that does not say of which row is refused', async () => {
    const { table } = live([]);
    const send = vi.fn();
    await expect(table.write({ patch: { done: true } }, send)).rejects.toThrow('which row');
    expect(send).not.toHaveBeenCalled();
  });

  test('a row whose key the server chooses is never there twice', async () => {
    for (const order of ['event first', 'answer first', 'answer without key first', 'answer with key only']) {
      const { loop, table, told } = live([]);
      const answer = later<{ key?: number; id?: string } | undefined>();
      void table.write({ add: { id: -1, text: 'hi' } }, () => answer.promise);
      const created = (): void => loop.event('created', { id: 42, text: order === 'answer with key only' ? 'HI' : 'hi', at: 'now' });
      if (order === 'event first') {
        created();
        expect(table.get().rows).toEqual([{ id: 42, text: 'hi', at: 'now' }]);
      }
      answer.resolve(order === 'answer without key first' ? undefined : { key: 42 });
      await pass();
      expect(table.get().rows).toHaveLength(1);
      if (order !== 'event first') created();
      await vi.advanceTimersByTimeAsync(20);
      expect(table.get()).toMatchObject({ rows: [{ id: 42, at: 'now' }], pending: new Set() });
      for (const seen of told) expect(seen.length, order).toBeLessThanOrEqual(1);
    }
  });

  test('by its id, in both orders, whatever the event says', async () => {
    for (const eventFirst of [true, false]) {
      const { loop, table } = live([{ id: 1, n: 0 }]);
      const answer = later<{ id: string }>();
      void table.write({ patch: { id: 1, n: 5 } }, () => answer.promise);
      const event = (): void => loop.event('updated', { id: 1, n: 6 }, { id: 'mine', old: { id: 1 } });
      loop.event('updated', { id: 1, n: 2 }, { id: 'other', old: { id: 1 } });
      expect(table.row(1)).toEqual({ id: 1, n: 5 });
      if (eventFirst) event();
      answer.resolve({ id: 'mine' });
      await pass();
      if (!eventFirst) {
        expect(table.row(1)).toEqual({ id: 1, n: 5 });
        loop.event('updated', { id: 1, n: 5 }, { id: 'another', old: { id: 1 } }); // looks like it, but is not
        expect(table.get().pending).toEqual(new Set([1]));
        event();
      }
      expect(table.get()).toMatchObject({ rows: [{ id: 1, n: 6 }], pending: new Set() });
    }
  });

  test('an id is believed more than what an event looks like', async () => {
    const { loop, table } = live([{ id: 1, n: 0 }]);
    const answer = later<{ id: string }>();
    void table.write({ patch: { id: 1, n: 5 } }, () => answer.promise);
    loop.event('updated', { id: 1, n: 5 }, { id: 'looks like it', old: { id: 1 } });
    loop.event('updated', { id: 1, n: 9 }, { id: 'other', old: { id: 1 } });
    answer.resolve({ id: 'mine' });
    await pass();
    expect(table.get()).toMatchObject({ rows: [{ id: 1, n: 5 }], pending: new Set([1]) });
    loop.event('updated', { id: 1, n: 5, by: 'me' }, { id: 'mine', old: { id: 1 } });
    expect(table.get()).toMatchObject({ rows: [{ id: 1, n: 5, by: 'me' }], pending: new Set() });
  });

  test('the key that an answer gives tells which row it has become, though the server changed it', async () => {
    const { loop, table } = live([]);
    const answer = later<{ key: number }>();
    void table.write({ add: { id: -1, text: 'hi' } }, () => answer.promise);
    loop.event('created', { id: 42, text: 'HI' });
    answer.resolve({ key: 42 });
    await pass();
    expect(table.get()).toMatchObject({ rows: [{ id: 42, text: 'HI' }], pending: new Set() });
  });

  test('one that became no event ends by itself, but not while there is no connection', async () => {
    const { loop, table } = live([{ id: 1, n: 0 }]);
    await table.write({ patch: { id: 1, n: 1 } }, () => Promise.resolve());
    await vi.advanceTimersByTimeAsync(4000);
    loop.online(false);
    await vi.advanceTimersByTimeAsync(60_000);
    expect(table.row(1)).toEqual({ id: 1, n: 1 });
    loop.online(true);
    loop.subscribed(true);
    await vi.advanceTimersByTimeAsync(4900);
    expect(table.row(1)).toEqual({ id: 1, n: 1 });
    await vi.advanceTimersByTimeAsync(200);
    expect(table.get()).toMatchObject({ rows: [{ id: 1, n: 0 }], pending: new Set() });
  });

  test('a snapshot that holds it ends it', async () => {
    const { loop, table } = live([{ id: 1, n: 0 }]);
    await table.write({ put: { id: 2, n: 1 } }, () => Promise.resolve({ id: 'never seen' }));
    await table.write({ remove: { id: 1 } }, () => Promise.resolve());
    await table.write({ add: { id: -3, n: 3 } }, () => Promise.resolve());
    loop.item({ type: 'reset', topic: 'loop', head: 9 });
    expect(table.get().rows).toEqual([{ id: 2, n: 1 }, { id: -3, n: 3 }]);
    loop.snapshot([{ id: 2, n: 1 }, { id: 3, n: 3 }]);
    expect(table.get()).toMatchObject({ rows: [{ id: 2, n: 1 }, { id: 3, n: 3 }], pending: new Set() });
  });
});

/**
 * Whatever interleaves: a server that commits writes in its own order, refuses some, makes something else of
 * others; answers and events that come in any order; other writers; connections that break and
 * begin anew with a snapshot.
 */
describe('any interleaving', () => {
  const seed = Number(process.env.PGCAST_SEED ?? 20261127);
  const runs = Number(process.env.PGCAST_RUNS ?? 40);
  type Way = 'id' | 'key' | 'nothing';

  /** A write on its way. what: how the row is known by; token: a value that no other write has. */
  interface Sent {
    change: Change<Row>;
    token: number;
    way: Way;
    answer: ReturnType<typeof later<{ id?: string; key?: number } | undefined>>;
    committed?: { id: string; key: number };
    failed?: boolean;
  }

  async function run(seed: number, ways: Way[]): Promise<number> {
    const next = random(seed);
    const below = (n: number): number => Math.floor(next() * n);
    const server = new Map<number, Row>([[1, { id: 1, x: 0 }], [2, { id: 2, x: 0 }]]);
    const { loop, table, told } = live([...server.values()]);
    let stream: { event: string; data: unknown; more: object }[] = [];
    let sent: Sent[] = [];
    const answering: Sent[] = [];
    const refused = new Set<number>();
    let [events, tokens, keys] = [0, 10_000, 100];

    const apply = (change: Change<Row>, rename: (row: Row) => Row): { id: string; key: number } => {
      const id = `s${++events}`;
      let key: number;
      if ('remove' in change) {
        key = change.remove as number;
        if (server.delete(key)) stream.push({ event: 'deleted', data: { id: key }, more: { id, old: { id: key } } });
        return { id, key };
      }
      let row: Row;
      if ('add' in change) row = rename({ ...change.add, id: ++keys });
      else if ('put' in change) row = rename({ ...change.put });
      else {
        const old = server.get(change.patch.id as number);
        if (!old) return { id, key: change.patch.id as number };
        row = rename({ ...old, ...change.patch } as Row);
      }
      key = row.id;
      stream.push({ event: server.has(key) ? 'updated' : 'created', data: row, more: { id, ...(server.has(key) && { old: { id: key } }) } });
      server.set(key, row);
      return { id, key };
    };

    const write = (): void => {
      const token = ++tokens;
      const id = 1 + below(4);
      const change = (
        [{ patch: { id, [`m${below(3)}`]: token } }, { put: { id, token } }, { add: { id: -token, token } }, { remove: id }] as Change<Row>[]
      )[below(4)]!;
      const one: Sent = { change, token, way: ways[below(ways.length)]!, answer: later() };
      sent.push(one);
      table.write(change, () => one.answer.promise).catch((error: Error) => {
        if (error.message !== 'refused') throw error;
      });
    };
    const commit = (): void => {
      const [one] = sent.splice(below(sent.length), 1);
      if (!one) return;
      if (next() < 0.2) {
        one.failed = true;
        refused.add(one.token);
      } else one.committed = apply(one.change, (row) => (next() < 0.3 ? { ...row, server: `${events}` } : row));
      answering.push(one);
    };
    const answer = async (): Promise<void> => {
      const [one] = answering.splice(below(answering.length), 1);
      if (!one) return;
      if (one.failed) one.answer.reject(new Error('refused'));
      else {
        const { id, key } = one.committed!;
        one.answer.resolve(one.way === 'id' ? { id } : one.way === 'key' ? { key } : undefined);
      }
      await pass();
      if (one.failed) for (const row of table.get().rows) expect(Object.values(row)).not.toContain(one.token);
    };
    const deliver = (): void => {
      const one = stream.shift();
      if (one) loop.event(one.event, one.data, one.more as any);
    };
    const steps = [
      write,
      write,
      commit,
      commit,
      answer,
      answer,
      deliver,
      deliver,
      deliver,
      () => void apply({ put: { id: 1 + below(4), other: `${events}` } }, (row) => row),
      () => void apply({ remove: 1 + below(4) }, (row) => row),
      () => {
        if (next() > 0.2) return;
        loop.online(false);
        loop.online(true);
        loop.item({ type: 'reset', topic: 'loop', head: 0 });
        stream = [];
        loop.subscribed();
        loop.snapshot([...server.values()], { parts: next() < 0.5 });
      },
    ];
    for (let i = 0; i < 60; i++) {
      await steps[below(steps.length)]!();
      const shown = table.get().rows;
      expect(new Set(shown.map((row) => row.id)).size).toBe(shown.length);
      const added = shown.map((row) => row.token).filter((token) => token !== undefined);
      expect(new Set(added).size, 'a row that was added is there twice').toBe(added.length);
    }
    while (sent.length) commit();
    while (answering.length || stream.length) await (next() < 0.5 ? answer() : deliver());
    await vi.advanceTimersByTimeAsync(5100);
    const byId = (a: Row, b: Row): number => a.id - b.id;
    expect([...table.get().rows].sort(byId)).toEqual([...server.values()].sort(byId));
    expect(table.get().pending).toEqual(new Set());
    for (const row of table.get().rows) expect(refused).not.toContain(row.token);
    return told.length;
  }

  for (const ways of [['id'], ['key', 'nothing'], ['id', 'key', 'nothing']] as Way[][]) {
    test(`answers with ${ways.join(', ')}: ${runs} runs end as the server has it`, async () => {
      for (let i = 0; i < runs; i++) {
        try {
          await run(seed + i, ways);
        } catch (error) {
          throw new Error(`PGCAST_SEED=${seed + i}, answers with ${ways}: ${(error as Error).message}`, { cause: error });
        }
        vi.clearAllTimers();
      }
    });
  }
});
