// What the app sees: handlers, iterations, status, calls and their ends.
import { expect, onTestFinished, test, vi } from 'vitest';
import { connect } from '../src/index.js';
import type { Item, State, Status } from '../src/types.js';
import { client, impatient, items, patient, proxied, seqs, state, subscribed, upTo } from './harness/client.js';
import { until } from './harness/server.js';
import { fresh, shared, sql } from './harness/shared.js';

const publish = (topic: string, n = 1) =>
  sql(`select pgcast.publish($1, 'n', jsonb_build_object('i', i)) from generate_series(1, $2::int) i`, [topic, n]);

test('a handler that throws is reported, and the others go on', async () => {
  const errors: unknown[] = [];
  const report = vi.spyOn(console, 'error').mockImplementation((...args) => void errors.push(...args));
  onTestFinished(() => report.mockRestore());
  const topic = fresh('throws');
  const handle = client(shared.ws).topic(topic);
  handle.on('n', () => {
    throw new Error('the app is broken');
  });
  const heard = items(handle);
  await subscribed(heard);
  await publish(topic, 3);
  await until('the events', () => seqs(heard).length === 3);
  expect(seqs(heard)).toEqual([1, 2, 3]);
  expect(errors.filter((err) => err instanceof Error && err.message === 'the app is broken')).toHaveLength(3);
});

test('handlers get events by name, and end when they are told to', async () => {
  const topic = fresh('names');
  const handle = client(shared.ws).topic(topic);
  const [a, b, all]: [unknown[], unknown[], unknown[]] = [[], [], []];
  const endA = handle.on('a', ({ data }) => a.push(data));
  handle.on('b', ({ data }) => b.push(data));
  handle.on('event', ({ data }) => all.push(data));
  await until('subscribed', () => handle.place);
  await sql(`select pgcast.publish($1, 'a', '1'), pgcast.publish($1, 'b', '2')`, [topic]);
  await until('two events', () => all.length === 2);
  endA();
  await sql(`select pgcast.publish($1, 'a', '3'), pgcast.publish($1, 'b', '4')`, [topic]);
  await until('four events', () => all.length === 4);
  expect({ a, b, all }).toEqual({ a: [1], b: [2, 4], all: [1, 2, 3, 4] });
});

test('an iteration that is left keeps what it has not taken for the next one', async () => {
  const topic = fresh('left');
  const handle = client(shared.ws).topic(topic, { after: 0 });
  await publish(topic, 30);
  const got: number[] = [];
  while (got.length < 30) {
    // Each time some wait that this iteration leaves.
    for await (const { seq } of handle.events()) if (got.push(seq) % 7 === 0 || got.length === 30) break;
  }
  expect(got).toEqual(upTo(30));
});

test('what is no JSON fails by itself, and harms nothing behind it, also after a cut', async () => {
  const topic = fresh('json');
  const rt = client(shared.ws);
  const handle = rt.topic(topic);
  const cyclic: Record<string, unknown> = {};
  cyclic['me'] = cyclic;
  for (const bad of [1n, cyclic]) await expect(handle.publish('x', bad)).rejects.toThrow(TypeError);
  await handle.publish('x', 1);
  rt.cut();
  await expect(handle.publish('x', 2n)).rejects.toThrow(TypeError);
  const data = { n: 2 };
  const sent = handle.publish('x', data);
  data.n = 3; // it is sent as it was
  await sent;
  const { events } = await handle.history();
  expect(events.map((each) => each.data)).toEqual([1, { n: 2 }]);
});

test('whoever listens again goes on where it was', async () => {
  const topic = fresh('again');
  const handle = client(shared.ws).topic(topic);
  const got: number[] = [];
  const end = handle.on('event', ({ seq }) => got.push(seq));
  await until('subscribed', () => handle.place);
  await publish(topic, 3);
  await until('three', () => got.length === 3);
  end();
  await publish(topic, 3); // nobody listens
  handle.on('event', ({ seq }) => got.push(seq));
  await publish(topic, 1);
  await until('all', () => got.length >= 7);
  expect(got).toEqual(upTo(7));
});

test('several iterations and handlers each get everything', async () => {
  const topic = fresh('many');
  const handle = client(shared.ws).topic(topic, { after: 0 });
  const heard = items(handle);
  const take = async () => {
    const got: number[] = [];
    for await (const { seq } of handle.events()) {
      got.push(seq);
      if (seq === 50) return got;
    }
    return got;
  };
  const all = Promise.all([take(), take()]);
  await publish(topic, 50);
  expect(await all).toEqual([upTo(50), upTo(50)]);
  await until('the handlers', () => seqs(heard).length === 50);
  expect(seqs(heard)).toEqual(upTo(50));
});

test('close ends iterations and calls, and nothing is handed over after it', async () => {
  const topic = fresh('closed');
  const rt = connect(shared.ws, patient);
  const handle = rt.topic(topic, { after: 0 });
  const heard: Item[] = items(handle);
  const iteration = (async () => {
    let n = 0;
    for await (const _ of handle.events()) n++;
    return n;
  })();
  await publish(topic, 2);
  await until('two events', () => seqs(heard).length === 2);
  handle.close();
  expect(await iteration).toBe(2);
  await publish(topic, 2);

  const again = items(rt.topic(topic, { after: 2 }));
  await until('the other handle', () => seqs(again).length === 2);
  expect(seqs(heard)).toEqual([1, 2]);
  rt.close();
  expect(rt.status.get().state).toBe('closed');
  await expect(rt.topic('x').publish('e', 1)).rejects.toMatchObject({ name: 'RealtimeError' });
});

test('the same name is the same topic, and other options are an error', () => {
  const rt = client(shared.ws);
  const topic = fresh('same');
  expect(rt.topic(topic, { after: 5 })).toBe(rt.topic(topic, { after: 5 }));
  expect(rt.topic(topic)).toBe(rt.topic(topic, { after: 5 }));
  expect(() => rt.topic(topic, { after: 6 })).toThrow(/close/);
  expect(() => rt.topic(fresh('both'), { after: 6, snapshot: true })).toThrow();
});

test('status: connecting, online, connecting with the reason, online, closed', async () => {
  const proxy = await proxied();
  const rt = connect(proxy.ws, { ...impatient, silence: 30_000 });
  const states: State[] = [];
  const all: Status[] = [];
  rt.status.subscribe((status) => {
    all.push(status);
    if (states.at(-1) !== status.state) states.push(status.state);
  });
  await subscribed(items(rt.topic(fresh('status'))));
  await state(rt, 'online');
  expect(rt.status.get()).toMatchObject({ transport: 'websocket', degraded: [] });
  expect(rt.status.get()).toBe(rt.status.get());
  proxy.refuse = true;
  proxy.cut();
  await until('the reason', () => all.some((status) => status.state === 'connecting' && status.retryAt && status.error));
  proxy.refuse = false;
  await state(rt, 'online');
  expect(rt.status.get().error).toBeUndefined();
  rt.cut();
  await until('it to have been cut', () => states.at(-1) === 'connecting' || proxy.connections);
  await state(rt, 'online');
  rt.close();
  expect(states[0]).toBe('connecting');
  expect(states.slice(1, 4)).toEqual(['online', 'connecting', 'online']);
  expect(states.at(-1)).toBe('closed');
});

test('publish: the id is that of the event, the same key is the same event, and errors have codes', async () => {
  const rt = client(shared.ws);
  const handle = rt.topic(fresh('publish'), { after: 0 });
  const heard = items(handle);
  const { id } = await handle.publish('said', { hello: 'world' }, { key: 'k1' });
  expect(await handle.publish('said', { hello: 'again' }, { key: 'k1' })).toEqual({ id });
  await handle.publish('said', null);
  await until('both', () => seqs(heard).length === 2);
  expect(heard.filter(({ type }) => type === 'event')).toMatchObject([
    { id, event: 'said', data: { hello: 'world' }, seq: 1 },
    { event: 'said', data: null, seq: 2 },
  ]);
  await expect(handle.publish('bad"name', 1)).rejects.toMatchObject({ name: 'RealtimeError', code: 'invalid_event' });
  await expect(rt.topic('__mine').publish('e', 1)).rejects.toMatchObject({ name: 'RealtimeError' });
  await expect(handle.publish('zero', '\u0000')).rejects.toMatchObject({ code: 'invalid_event' });
});

test('history: pages, their places, and what a filter selects', async () => {
  const topic = fresh('history');
  await publish(topic, 25);
  const handle = client(shared.ws).topic(topic);
  await until('the events', async () => (await handle.history({ after: 24 })).head === 25);
  const got: number[] = [];
  let after = 0;
  for (let pages = 0; pages < 4; pages++) {
    const page = await handle.history({ after, limit: 10 });
    got.push(...page.events.map(({ seq }) => seq));
    after = page.next;
    expect(page).toMatchObject({ tail: 1, head: 25 });
    if (page.next === page.head) break;
  }
  expect(got).toEqual(upTo(25));
  const some = await handle.history({ filter: 'i = 7' });
  expect(some.events.map(({ data }) => data)).toEqual([{ i: 7 }]);
});

test('calls wait for a connection, and a signal calls them off', async () => {
  const proxy = await proxied();
  proxy.refuse = true;
  const rt = client(proxy.ws, impatient);
  const handle = rt.topic(fresh('abort'));
  const waiting = handle.publish('e', 'waited');
  const stop = new AbortController();
  const aborted = [handle.publish('e', 'aborted', { signal: stop.signal }), handle.history({ signal: stop.signal })];
  await until('attempts', () => proxy.connections > 2);
  stop.abort();
  for (const call of aborted) await expect(call).rejects.toMatchObject({ name: 'AbortError' });
  await expect(handle.publish('e', 'late', { signal: AbortSignal.abort() })).rejects.toMatchObject({ name: 'AbortError' });
  proxy.refuse = false;
  await waiting;
  const page = await until('the event', async () => {
    const page = await handle.history();
    return page.events.length ? page : undefined;
  });
  expect(page.events.map(({ data }) => data)).toEqual(['waited']);
});

test('a filter brings what it selects, and resumes', async () => {
  const topic = fresh('filter');
  const proxy = await proxied();
  const heard = items(client(proxy.ws, impatient).topic(topic, { filter: { i: 2 } }));
  await subscribed(heard);
  for (let round = 0; round < 5; round++) {
    await publish(topic, 4);
    if (round % 2) proxy.cut();
  }
  await until('five events', () => seqs(heard).length >= 5);
  expect(seqs(heard)).toEqual([2, 6, 10, 14, 18]);
});

test('a slow link costs time, and nothing else', async () => {
  const topic = fresh('slowlink');
  const proxy = await proxied();
  proxy.slow = 3;
  const handle = client(proxy.ws, { ...impatient, silence: 30_000, connectTimeout: 30_000 }).topic(topic, { after: 0 });
  const heard = items(handle);
  await Promise.all([publish(topic, 300), handle.publish('said', 1), publish(topic, 300)]);
  await until('everything', () => seqs(heard).length >= 601);
  expect(seqs(heard)).toEqual(upTo(601));
  expect(proxy.connections).toBe(1);
});
