import { expectTypeOf } from 'vitest';
import type { ComputedRef } from 'vue';
import * as react from '../src/react.js';
import { type Rows, rows, type RowsView } from '../src/rows.js';
import * as svelte from '../src/svelte.js';
import type { EventItem, EventOf, Item, Realtime, RowEvents, SnapshotItem, Status, Topic } from '../src/types.js';
import * as vue from '../src/vue.js';

// What the compiler has to know, checked by tsc (npm run types). Nothing here is ever run.

interface Message {
  id: number;
  room_id: number;
  body: string;
}

interface Topics {
  [topic: `room:${string}`]: RowEvents<Message>;
  [topic: `typing:${string}`]: { started: { by: string }; stopped: { by: string; after: number } };
  prices: { tick: { symbol: string; price: number } };
}

export async function typed(rt: Realtime<Topics>): Promise<void> {
  const room = rt.topic('room:1', { snapshot: true });
  expectTypeOf(room).toEqualTypeOf<Topic<RowEvents<Message>>>();
  expectTypeOf(rt.topic('room:*')).toEqualTypeOf<Topic<RowEvents<Message>>>();

  room.on('created', (e) => {
    expectTypeOf(e.event).toEqualTypeOf<'created'>();
    expectTypeOf(e.data).toEqualTypeOf<Message>();
    expectTypeOf(e).toEqualTypeOf<EventOf<RowEvents<Message>, 'created'>>();
  });
  room.on('deleted', (e) => expectTypeOf(e.data).toEqualTypeOf<Partial<Message>>());
  room.on('truncated', (e) => expectTypeOf(e.data).toEqualTypeOf<null>());
  room.on('gap', (gap) => expectTypeOf(gap.tail).toEqualTypeOf<number>());
  room.on('snapshot', (part) => expectTypeOf(part).toEqualTypeOf<SnapshotItem<RowEvents<Message>>>());
  room.on('event', (e) => {
    if (e.event === 'updated') expectTypeOf(e.data).toEqualTypeOf<Message>();
    else if (e.event === 'gone') expectTypeOf(e.data).toEqualTypeOf<null>();
  });

  for await (const item of room) {
    expectTypeOf(item).toEqualTypeOf<Item<RowEvents<Message>>>();
    if (item.type === 'event' && item.event === 'created') expectTypeOf(item.data).toEqualTypeOf<Message>();
    if (item.type === 'reset') expectTypeOf(item.head).toEqualTypeOf<number>();
  }
  const typing = rt.topic('typing:1');
  for await (const e of typing.events()) {
    if (e.event === 'stopped') expectTypeOf(e.data).toEqualTypeOf<{ by: string; after: number }>();
    // @ts-expect-error there is no such event on these topics
    if (e.event === 'created') return;
  }

  expectTypeOf(await typing.publish('started', { by: 'ann' })).toEqualTypeOf<{ id: string }>();
  await typing.publish('stopped', { by: 'ann', after: 3 }, { key: 'k' });
  expectTypeOf((await typing.history()).events).toEqualTypeOf<EventItem<Topics['typing:1']>[]>();
}

export async function wrong(rt: Realtime<Topics>): Promise<void> {
  // @ts-expect-error no topic has such a name
  rt.topic('rooms');
  const typing = rt.topic('typing:1');
  // @ts-expect-error no event has such a name
  typing.on('creatd', () => {});
  // @ts-expect-error the event has no such member
  typing.on('started', (e) => e.data.after);
  // @ts-expect-error no event has such a name
  await typing.publish('start', { by: 'ann' });
  // @ts-expect-error a member is of another type
  await typing.publish('started', { by: 7 });
  // @ts-expect-error a member is missing
  await typing.publish('stopped', { by: 'ann' });
  // @ts-expect-error after is a place
  rt.topic('prices', { after: '41' });
}

/** Without a map every topic and event is allowed, and data is any. */
export async function untyped(rt: Realtime): Promise<void> {
  const topic = rt.topic('anything');
  topic.on('created', (e) => {
    expectTypeOf(e.event).toEqualTypeOf<'created'>();
    expectTypeOf(e.seq).toEqualTypeOf<number>();
    expectTypeOf(e.data).toBeAny();
  });
  topic.on('event', (e) => expectTypeOf(e.event).toEqualTypeOf<string>());
  topic.on('subscribed', (item) => expectTypeOf(item.resumed).toEqualTypeOf<boolean>());
  await topic.publish('said', 'hello');
}

export async function liveTables(rt: Realtime<Topics>): Promise<void> {
  const room = rt.topic('room:1', { snapshot: true });
  const table = rows(room, { sort: (a, b) => a.id - b.id });
  expectTypeOf(table).toEqualTypeOf<Rows<Message>>();
  expectTypeOf(table.get().rows).toEqualTypeOf<readonly Message[]>();
  expectTypeOf(table.row(7)).toEqualTypeOf<Message | undefined>();
  rows(room, { key: ['room_id', 'id'] });
  rows(room, { key: (row) => row.id });
  // @ts-expect-error rows have no such member
  rows(room, { key: 'uuid' });

  expectTypeOf(await table.write({ patch: { id: 7, body: 'x' } }, () => room.publish('created', { id: 7, room_id: 1, body: 'x' }))).toEqualTypeOf<{
    id: string;
  }>();
  expectTypeOf(await table.write([{ remove: 7 }, { remove: { id: 8 } }], async () => ({ key: 7, more: true }))).toEqualTypeOf<{ key: number; more: boolean }>();
  // @ts-expect-error a member is of another type
  await table.write({ patch: { id: '7' } }, async () => {});
  // @ts-expect-error members are missing
  await table.write({ put: { id: 7 } }, async () => {});
  // @ts-expect-error there is no such change
  await table.write({ set: { id: 7 } }, async () => {});

  // A topic that is only published to: rows are what its events say.
  expectTypeOf(rows(rt.topic('prices', { snapshot: true }), { key: 'symbol' }).get().rows[0]!).toEqualTypeOf<{ symbol: string; price: number }>();
}

export function untypedTables(rt: Realtime): void {
  expectTypeOf(rows(rt.topic('any', { snapshot: true })).get().rows[0]).toBeAny();
  expectTypeOf(rows<any, Message>(rt.topic('any', { snapshot: true })).get().rows[0]!).toEqualTypeOf<Message>();
}

export function hooks(rt: Realtime<Topics>): void {
  const room = rt.topic('room:1', { snapshot: true });
  expectTypeOf(react.useRows(room).rows).toEqualTypeOf<readonly Message[]>();
  expectTypeOf(react.useRows(room).write).toEqualTypeOf<Rows<Message>['write']>();
  expectTypeOf(react.useTopic(room)).toEqualTypeOf<readonly EventItem<RowEvents<Message>>[]>();
  expectTypeOf(
    react.useTopic(room, {
      created: (e) => expectTypeOf(e.data).toEqualTypeOf<Message>(),
      gap: (gap) => expectTypeOf(gap.tail).toEqualTypeOf<number>(),
    }),
  ).toEqualTypeOf<void>();
  // @ts-expect-error no event has such a name
  react.useTopic(room, { creatd: () => {} });
  expectTypeOf(react.usePresence<{ name: string }>(room, true).users).toEqualTypeOf<ReadonlyMap<string, { name: string }>>();
  expectTypeOf(react.useStatus(rt)).toEqualTypeOf<Status>();

  expectTypeOf(vue.useRows(() => room).rows).toEqualTypeOf<ComputedRef<readonly Message[]>>();
  expectTypeOf(vue.useTopic(room, 5).value).toEqualTypeOf<readonly EventItem<RowEvents<Message>>[]>();
  vue.useTopic(() => room, { updated: (e) => expectTypeOf(e.data).toEqualTypeOf<Message>() });

  svelte.rows(room).subscribe((view) => expectTypeOf(view).toEqualTypeOf<RowsView<Message>>());
  svelte.events(room).subscribe((events) => expectTypeOf(events).toEqualTypeOf<readonly EventItem<RowEvents<Message>>[]>());
}
