import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import * as frames from '../../src/frames.js';
import type { Frame, Wanted } from '../../src/link.js';
import { cursorFrame, cursorSnapshot, moved, presenceFrame, users } from '../../src/live.js';
import { backoff } from '../../src/backoff.js';
import { subOf, type Host, type Sub } from '../../src/subscription.js';
import type { Item } from '../../src/types.js';

const dir = new URL('../../../../internal/wire/testdata/', import.meta.url);
const sample = (name: string): Frame => JSON.parse(readFileSync(new URL(`${name}.json`, dir), 'utf8')) as Frame;
const names = readdirSync(dir).filter((name) => name.endsWith('.json')).map((name) => name.slice(0, -5));

/** Frames that this client never sends: they are for groups and for clients of the peer protocol. */
const notSent = ['client-group-join', 'client-group-send', 'client-replay', 'client-resume'];

describe('client frames are those of the protocol', () => {
  const token = sample('client-auth').token as string;
  const sent: Record<string, Frame> = {
    'client-hello': frames.hello(),
    'client-hello-user': frames.hello({ id: 'ann', name: 'Ann' }),
    'client-hello-token': frames.hello(undefined, token),
    'client-auth': { ...frames.auth(token), ref: 16 },
    'client-subscribe': frames.subscribe(1, [frames.asked('room:1')]),
    'client-subscribe-after': frames.subscribe(2, [frames.asked('room:1', { after: 41, id: '29-64d2c5b18fbcd' })]),
    'client-subscribe-pattern': { ...frames.subscribe(0, [frames.asked('room:*', { after: 1048, id: '29-64d2c5b18fbcd' })]), ref: 'all rooms' },
    'client-subscribe-snapshot': frames.subscribe(14, [frames.asked('room:1', undefined, true)]),
    'client-subscribe-as-of': frames.subscribe(15, [
      frames.asked('room:1', { after: 43, id: '2b-64d2c5b1b1177', asOf: '1a5f7d6d8d5e5b32.1/748:751:748,750' }, true),
    ]),
    'client-subscribe-filter': frames.subscribe(16, [frames.asked('room:1', undefined, true, "author = 'ann' and not draft = true")]),
    'client-subscribe-batch': frames.subscribe(3, [
      'room:1',
      frames.asked('room:2', { after: 5, id: '31-64d2c5b219405' }),
      frames.asked('board:*', { after: 0 }),
    ]),
    'client-subscribe-filter-object': { type: 'subscribe-batch', ref: 17, topics: [frames.asked('room:2', undefined, false, { author: 'ann' })] },
    'client-unsubscribe': { ...frames.unsubscribe('room:1'), ref: 4 },
    'client-publish': { ...frames.publish('room:1', 'typing', { by: 1 }, '5f0c9a4e'), ref: 5 },
    'client-history': { ...frames.history('room:1', 40, 2), ref: 6 },
    'client-history-filter': { ...frames.history('room:1', 40, undefined, "author = 'ann'"), ref: 18 },
    'client-presence-join': { ...presenceFrame('room:1', 'join', { id: 'ann', name: 'Ann' }), ref: 9 },
    'client-presence-list': { ...presenceFrame('room:1', 'list'), ref: 10 },
    'client-cursor': cursorFrame('board:1', { x: 10, y: 20 }),
    'client-cursor-snapshot': cursorSnapshot('board:1'),
  };

  it.each(names.filter((name) => name.startsWith('client-')))('%s', (name) => {
    if (notSent.includes(name)) return expect(sent).not.toHaveProperty(name);
    // As JSON: members that are undefined are not sent.
    expect(JSON.parse(JSON.stringify(sent[name]))).toEqual(sample(name));
  });
});

/** A subscription that was answered, and what it hands over. */
function subscribed(wanted: Wanted, seq: number): { sub: Sub; items: Item[]; asked: Frame[]; lost: string[] } {
  const items: Item[] = [];
  const asked: Frame[] = [];
  const lost: string[] = [];
  const host: Host = {
    ask: (sub) => void asked.push(frames.subscribe(2, [sub.asked(2)])),
    request: () => new Promise(() => {}),
    giveUp: (why) => void lost.push(why),
    forget: () => {},
  };
  const sub = subOf(wanted, (item) => items.push(item), host, backoff(1, 1));
  sub.asked(1);
  sub.handle({ type: 'subscribed', topic: wanted.topic, ref: 1, seq });
  return { sub, items, asked, lost };
}

/** Where a subscription is: what it asks for in a next connection, which answers with seq. */
function placeOf(sub: Sub, seq = 0): Record<string, unknown> {
  const { topic, after, id, snapshot: asOf } = sub.asked(9);
  sub.handle({ type: 'subscribed', topic, ref: 9, seq });
  return { after, id, asOf };
}

const room = (after: number): Wanted => ({ topic: 'room:1', place: { after } });

describe('server frames are read as the protocol has them', () => {
  it.each(names.filter((name) => /^server-event-(?!position)/.test(name)))('%s', (name) => {
    const frame = sample(name);
    const { sub, items } = subscribed(room((frame.seq as number) - 1), (frame.seq as number) - 1);
    sub.handle(frame);
    expect(items.at(-1)).toEqual({ ...frame, type: 'event', place: { after: frame.seq, id: frame.id } });
    sub.handle(frame); // once more: it is not handed over
    expect(items).toHaveLength(2);
  });

  it('server-event-position, through a pattern', () => {
    const frame = sample('server-event-position');
    const { sub, items } = subscribed({ topic: 'room:*', place: { after: 1000 } }, 1000);
    sub.handle(frame);
    expect(items.at(-1)).toMatchObject({ type: 'event', topic: 'room:1', seq: 47, place: { after: 1049, id: frame.id } });
  });

  it('server-batch', () => {
    const [first] = sample('server-batch').events as Frame[];
    const { sub, items } = subscribed(room(47), 47);
    sub.handle(first!);
    expect(items.at(-1)).toMatchObject({ type: 'event', event: 'typing', data: { by: 2 }, seq: 48 });
  });

  it('server-subscribed, to the place that was asked for', () => {
    const { items } = subscribed(room(41), sample('server-subscribed').seq as number);
    expect(items).toEqual([{ type: 'subscribed', topic: 'room:1', seq: 41, resumed: true }]);
  });

  it('server-subscribed-pattern, from the head', () => {
    const frame = sample('server-subscribed-pattern');
    const { sub, items } = subscribed({ topic: 'room:*' }, frame.seq as number);
    expect(items).toEqual([{ type: 'subscribed', topic: 'room:*', seq: 1048, resumed: false }]);
    expect(placeOf(sub)).toEqual({ after: 1048 });
  });

  it('server-subscribe-denied', () => {
    const frame = sample('server-subscribe-denied');
    const items: Item[] = [];
    const host: Host = {
      ask: () => {},
      request: () => new Promise(() => {}),
      giveUp: () => {},
        forget: () => {},
    };
    const sub = subOf({ topic: '__private' }, (item) => items.push(item), host, backoff(1, 1));
    sub.asked(frame.ref as number);
    sub.handle(frame);
    expect(items).toEqual([{ type: 'denied', topic: '__private', reason: 'INVALID_TOPIC' }]);
  });

  it('server-gap', () => {
    const { sub, items } = subscribed(room(41), 41);
    sub.handle(sample('server-gap'));
    expect(items.at(-1)).toEqual({ type: 'gap', topic: 'room:1', after: 41, tail: 120, head: 240 });
    expect(placeOf(sub)).toEqual({ after: 119 });
  });

  it('server-reset, announced by another place: until it is there the old one is kept', () => {
    const { sub, items, lost } = subscribed(room(41), 17);
    expect(placeOf(sub, 17)).toEqual({ after: 41 });
    sub.handle({ ...sample('server-event-created'), seq: 18 });
    expect(lost).toHaveLength(1);
    sub.handle(sample('server-reset'));
    expect(items.at(-1)).toEqual({ type: 'reset', topic: 'room:1', head: 17 });
    expect(placeOf(sub)).toEqual({ after: 17 });
  });

  it('server-snapshot-more, -oversize and -last, and anew after a reset', () => {
    const { sub, items, asked } = subscribed({ topic: 'room:1', snapshot: true }, 42);
    sub.handle(sample('server-snapshot-more'));
    sub.handle(sample('server-snapshot-oversize'));
    sub.handle(sample('server-snapshot-last'));
    const { asOf } = sample('server-snapshot-last') as { asOf?: string };
    expect(items.slice(1)).toMatchObject([
      { table: 'public.messages', rows: [{ id: 6 }, { id: 7 }], first: true, last: false },
      { rows: [], oversize: [{ id: 8 }], first: false, last: false },
      { rows: [{ id: 9 }], first: false, last: true, place: { after: 42, asOf } },
    ]);
    // What the snapshot holds is left out: a seq may be missing.
    sub.handle({ ...sample('server-event-updated'), seq: 45 });
    expect(placeOf(sub, 45)).toEqual({ after: 45, id: '2b-64d2c5b1b1177', asOf });
    sub.handle(sample('server-reset'));
    expect(asked).toEqual([{ type: 'subscribe', ref: 2, topic: 'room:1', snapshot: true }]);
  });

  it('server-snapshot-events', () => {
    const { sub, items } = subscribed({ topic: 'room:1', snapshot: true }, 42);
    sub.handle(sample('server-snapshot-events'));
    expect(items.at(-1)).toMatchObject({ rows: [], events: [{ type: 'event', event: 'typing', seq: 41 }], first: true, last: true, place: { after: 42 } });
  });

  it('server-presence-state and -diff; a heartbeat changes nothing', () => {
    const state = sample('server-presence-state');
    const before = users(new Map(), state.event as string, state.data);
    expect([...before]).toEqual([['ann', { id: 'ann', name: 'Ann' }]]);
    const diff = sample('server-presence-diff');
    expect([...users(before, diff.event as string, diff.data)]).toEqual([['bob', { id: 'bob', name: 'Bob' }]]);
    expect(users(before, 'heartbeat', sample('server-presence-heartbeat').data)).toBe(before);
  });

  it('server-cursor-snapshot, -update, -bulk and -remove', () => {
    let cursors: ReturnType<typeof moved> = new Map([['old', { key: 'old', data: 1 }]]);
    const x = (): unknown[] => [...cursors.values()].map((one) => (one.data as { x: number }).x);
    for (const [name, want] of [['snapshot', [10]], ['update', [11]], ['bulk', [12]], ['remove', []]] as const) {
      const frame = sample(`server-cursor-${name}`);
      cursors = moved(cursors, frame.event as string, frame.data);
      expect(x()).toEqual(want);
    }
  });
});
