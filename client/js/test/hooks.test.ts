import { Window } from 'happy-dom';
import { act, createElement, StrictMode, useState } from 'react';
import { createRoot, type Root } from 'react-dom/client';
import { renderToString } from 'react-dom/server';
import { get as svelteGet } from 'svelte/store';
import { WebSocket } from 'ws';
import { afterEach, expect, test } from 'vitest';
import { effectScope, ref, shallowRef } from 'vue';
import { connect } from '../src/index.js';
import * as react from '../src/react.js';
import * as svelte from '../src/svelte.js';
import type { Realtime, Topic } from '../src/types.js';
import * as vue from '../src/vue.js';
import { until } from './harness/server.js';
import { fresh, shared, sql } from './harness/shared.js';

interface Item {
  id: number;
  body: string;
}

const ends: (() => unknown)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

function client(): Realtime {
  const rt = connect(shared.ws, { WebSocket: WebSocket as any, minBackoff: 10 });
  ends.push(() => rt.close());
  return rt;
}

/** A table with one row, and its topic. */
async function attached(): Promise<{ table: string; topic: string }> {
  const table = fresh('hooks').replaceAll('.', '_');
  await sql(`create table ${table} (id bigint primary key, body text not null)`);
  await sql(`select pgcast.attach('${table}', topic => '${table}')`);
  await sql(`insert into ${table} values (1, 'first')`);
  return { table, topic: table };
}

/** A page, for React to draw on. */
function page(): { root: Root; text: () => string; draw: (element: React.ReactNode) => Promise<void> } {
  const window = new Window();
  Object.assign(globalThis, { window, document: window.document });
  const place = window.document.createElement('div');
  window.document.body.append(place);
  const root = createRoot(place as unknown as Element);
  ends.push(async () => {
    await acting(() => root.unmount());
    await window.happyDOM.close();
    for (const name of ['window', 'document']) delete (globalThis as any)[name];
  });
  return {
    root,
    text: () => place.textContent ?? '',
    draw: (element) => acting(() => root.render(element)),
  };
}

/** Does something, and all that React makes of it. Between such moments it draws when it likes, as in a browser. */
async function acting(run: () => void): Promise<void> {
  Object.assign(globalThis, { IS_REACT_ACT_ENVIRONMENT: true });
  await act(async () => run());
  Object.assign(globalThis, { IS_REACT_ACT_ENVIRONMENT: false });
}

test('react: useRows in strict mode, another topic, local writes, the end', async () => {
  const [one, two] = [await attached(), await attached()];
  await sql(`insert into ${two.table} values (2, 'second')`);
  const rt = client();
  const topic = (name: string): Topic<any> => rt.topic(name, { snapshot: true });
  let used!: react.UsedRows<Item>;
  const views: string[] = [];
  const List = ({ name }: { name: string }) => {
    used = react.useRows<any, Item>(topic(name), { sort: (a, b) => b.id - a.id });
    const other = react.useRows<any, Item>(topic(name), { key: (row) => row.id });
    const text = used.rows.map((row) => row.body).join(', ');
    if (name === two.topic && used.state === 'live' && other.state === 'live') views.push(text);
    return createElement('p', null, `${used.state}: ${text}`);
  };
  const { draw, text, root } = page();
  const shown = (name: string) => createElement(StrictMode, null, createElement(List, { name }));
  await draw(shown(one.topic));
  await until('the row', () => text() === 'live: first');
  await sql(`insert into ${one.table} values (3, 'third')`);
  await until('both rows', () => text() === 'live: third, first');

  let fail!: (error: Error) => void;
  let failing!: Promise<unknown>;
  await acting(() => {
    failing = used.write({ put: { id: 9, body: 'mine' } }, () => new Promise((_, no) => (fail = no)));
    failing.catch(() => {});
  });
  expect(text()).toBe('live: mine, third, first');
  await acting(() => fail(new Error('no')));
  await expect(failing).rejects.toThrow('no');
  expect(text()).toBe('live: third, first');

  await draw(shown(two.topic));
  expect(text()).not.toContain('third');
  await until('the other topic', () => text() === 'live: second, first');
  expect(views.every((view) => view === 'second, first')).toBe(true);
  await draw(shown(one.topic));
  expect(text()).toContain('third, first'); // it goes on with what it had
  await sql(`delete from ${one.table} where id = 3`);
  await until('what has changed', () => text() === 'live: first');
  await acting(() => root.render(null));
  expect(text()).toBe('');
});

test('react: useTopic with handlers that change, with the last events, and without a topic', async () => {
  const rt = client();
  const topic = rt.topic(fresh('talk'));
  const heard: string[] = [];
  const places: number[] = [];
  let turn!: (turn: string) => void;
  const Talk = ({ of }: { of: Topic | null }) => {
    const [by, setBy] = useState('a');
    turn = setBy;
    react.useTopic(of, { said: (e) => heard.push(`${by}: ${e.data}`), subscribed: ({ seq }) => places.push(seq) });
    const last = react.useTopic(of, 2);
    return createElement('p', null, `${react.useStatus(rt).state} ${last.map((e) => e.data).join(' ')}`);
  };
  const { draw, text } = page();
  const shown = (of: Topic | null) => createElement(StrictMode, null, createElement(Talk, { of }));
  await draw(shown(null));
  await draw(shown(topic));
  await until('the subscription', () => places.length);
  await topic.publish('said', 1);
  await until('1', () => text() === 'online 1');
  await acting(() => turn('b'));
  await topic.publish('said', 2);
  await topic.publish('said', 3);
  await until('the last two', () => text() === 'online 2 3');
  expect(heard).toEqual(['a: 1', 'b: 2', 'b: 3']);
  expect(places).toHaveLength(1); // strict mode mounts twice, and subscribes once
});

test('react: usePresence is here while it is mounted', async () => {
  const name = fresh('lobby');
  const [mine, others] = [client().topic(name), client().topic(name)];
  let seen: ReadonlyMap<string, unknown> = new Map();
  ends.push(others.presence.subscribe((users) => (seen = users)));
  const Who = () => {
    const { users, me } = react.usePresence(mine, { id: 'ann', name: 'Ann' });
    return createElement('p', null, me && users.has(me) ? `${users.size} with me` : '');
  };
  const { draw, text, root } = page();
  await draw(createElement(StrictMode, null, createElement(Who)));
  await until('me', () => text() === '1 with me');
  await until('the others to see it', () => seen.size === 1);
  await acting(() => root.render(null));
  await until('the others to see it leave', () => seen.size === 0);
});

test('react on a server: nothing is begun', () => {
  const rt = client();
  const topic = rt.topic(fresh('quiet'), { snapshot: true });
  const Page = () => {
    const { state } = react.useRows(topic);
    react.usePresence(topic, true);
    return createElement('p', null, `${state} ${react.useTopic(topic).length}`);
  };
  expect(renderToString(createElement(Page))).toBe('<p>loading 0</p>');
  expect(topic.place).toBeUndefined();
});

test('vue: rows, events, presence and status live with their scope, and follow another topic', async () => {
  const [one, two] = [await attached(), await attached()];
  await sql(`insert into ${two.table} values (2, 'second')`);
  const rt = client();
  const name = ref(one.topic);
  const talk = shallowRef<Topic | null>(null);
  const heard: unknown[] = [];
  const scope = effectScope();
  const used = scope.run(() => ({
    rows: vue.useRows<any, Item>(() => rt.topic(name.value, { snapshot: true })),
    events: vue.useTopic(talk, 2),
    handlers: vue.useTopic(talk, { said: (e) => heard.push(e.data) }),
    who: vue.usePresence(talk, { id: 'ann' }),
    status: vue.useStatus(rt),
  }))!;
  const bodies = (): string => used.rows.rows.value.map((row) => row.body).join(', ');
  expect(used.rows.state.value).toBe('loading');
  await expect(scope.run(() => vue.useRows(null))!.write({ put: 1 }, async () => {})).rejects.toThrow('no topic');
  await until('the row', () => bodies() === 'first' && used.rows.state.value === 'live');
  name.value = two.topic;
  await until('the other rows', () => bodies() === 'first, second');
  await used.rows.write({ patch: { id: 2, body: 'mine' } }, async () => {
    expect(bodies()).toBe('first, mine');
    await sql(`update ${two.table} set body = 'mine' where id = 2`);
  });
  await until('it to be so', () => !used.rows.pending.value.size);
  expect(used.rows.row(2)).toEqual({ id: 2, body: 'mine' });

  const topic = rt.topic(fresh('talk'));
  talk.value = topic;
  await until('the subscription', () => topic.place);
  for (const n of [1, 2, 3]) await topic.publish('said', n);
  await until('the last two', () => used.events.value.map((e) => e.data).join() === '2,3');
  expect(heard).toEqual([1, 2, 3]);
  await until('me', () => used.who.value.me && used.who.value.users.has(used.who.value.me));
  expect(used.status.value.state).toBe('online');

  const others = client().topic(topic.name);
  let seen = 1;
  ends.push(others.presence.subscribe((users) => (seen = users.size)));
  scope.stop();
  await until('the others to see it leave', () => seen === 0);
  await topic.publish('said', 4);
  expect(heard).toEqual([1, 2, 3]);
});

test('svelte: all of it is a store', async () => {
  const { table, topic: name } = await attached();
  const rt = client();
  const live = svelte.rows<any, Item>(rt.topic(name, { snapshot: true }));
  const talk = rt.topic(fresh('talk'));
  const events = svelte.events(talk, 2);
  const who = svelte.presence(talk, true);
  ends.push(live.subscribe(() => {}), events.subscribe(() => {}), who.subscribe(() => {}));
  await until('the row', () => svelteGet(live).rows.length === 1);
  await sql(`update ${table} set body = 'changed'`);
  await until('the change', () => svelteGet(live).rows[0]?.body === 'changed');
  await until('the subscription', () => talk.place);
  for (const n of [1, 2, 3]) await talk.publish('said', n);
  await until('the last two', () => svelteGet(events).map((e) => e.data).join() === '2,3');
  await until('me', () => svelteGet(who).me !== undefined && svelteGet(who).users.size === 1);
  expect(svelteGet(rt.status).state).toBe('online');
  expect(() => svelte.events(talk, 0)).toThrow(RangeError);
});
