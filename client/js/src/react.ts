import { useEffect, useMemo, useRef, useSyncExternalStore } from 'react';
import { lastEvents, listen, present, type Present, type TopicHandlers } from './hooks.js';
import { type RowOf, type Rows, rows, type RowsOptions, type RowsView } from './rows.js';
import type { EventItem, EventMap, Json, Readable, Status, Topic } from './types.js';

export type { Answer, Change, Key, RowOf, Rows, RowsOptions, RowsState, RowsView } from './rows.js';
export type { Present, TopicHandlers } from './hooks.js';

const nothing: readonly never[] = [];
const nobody: Present<any> = { users: new Map() };
const loading: RowsView<never> = { rows: [], state: 'loading', pending: new Set(), oversize: [] };

/** On the server, and where there is nothing to look at. */
function still<T>(value: T): Readable<T> {
  return { get: () => value, subscribe: () => () => {} };
}

/** The value of anything that the client has to show: rt.status, topic.cursors, a store of one's own. server is what it is while rendered on a server. */
export function useReadable<T>(readable: Readable<T>, server?: T): T {
  const [subscribe, get] = useMemo(
    () => [(changed: () => void) => readable.subscribe(changed), () => readable.get()] as const,
    [readable],
  );
  return useSyncExternalStore(subscribe, get, server === undefined ? get : () => server);
}

/**
 * Calls handlers, by the name of an event or notice, while the component is mounted. They may be
 * other functions with each render. No topic: nothing.
 */
export function useTopic<E extends EventMap>(topic: Topic<E> | null | undefined, handlers: TopicHandlers<E>): void;
/** The newest events of a topic, oldest first, at most limit (default 100), while the component is mounted; anew after a gap or a reset. */
export function useTopic<E extends EventMap>(topic: Topic<E> | null | undefined, limit?: number): readonly EventItem<E>[];
export function useTopic<E extends EventMap>(
  topic: Topic<E> | null | undefined,
  wanted: TopicHandlers<E> | number = 100,
): readonly EventItem<E>[] | void {
  const handlers = typeof wanted === 'number' ? undefined : wanted;
  const limit = typeof wanted === 'number' ? wanted : 0;

  const newest = useRef(handlers);
  useEffect(() => {
    newest.current = handlers;
  });
  const names = handlers && Object.keys(handlers).sort().join('\n');
  useEffect(() => {
    if (topic && names) return listen(topic, names.split('\n'), () => newest.current ?? {});
    return undefined;
  }, [topic, names]);

  const events = useReadable<readonly EventItem<E>[]>(
    useMemo(() => (topic && limit ? lastEvents(topic, limit) : still(nothing)), [topic, limit]),
    nothing,
  );
  return handlers ? undefined : events;
}

/** A live table at one moment, and what to do with it. */
export type UsedRows<Row> = RowsView<Row> & Pick<Rows<Row>, 'row' | 'write'>;

/**
 * The live table of a topic that was opened with a snapshot: see rows. Components with the same
 * topic and key share one. Without a topic it is loading for ever.
 */
export function useRows<E extends EventMap, Row = RowOf<E>>(topic: Topic<E> | null | undefined, options: RowsOptions<NoInfer<Row>> = {}): UsedRows<Row> {
  const { key, sort, settle } = options;
  // A function written in the component is another one with each render: the first counts.
  const name = typeof key === 'function' ? 'function' : JSON.stringify(key);
  const table = useMemo(
    () => topic && rows<E, Row>(topic, { ...(key !== undefined && { key }), ...(settle !== undefined && { settle }) }),
    [topic, name],
  );
  const view = useReadable<RowsView<Row>>(
    useMemo(() => table ?? still<RowsView<Row>>(loading), [table]),
    loading,
  );
  const sorted = useMemo(() => (sort ? [...view.rows].sort(sort) : view.rows), [view, sort]);
  return useMemo(
    () => ({
      ...view,
      rows: sorted,
      row: (key) => table?.row(key),
      write: (change, send) =>
        table ? table.write(change, send) : Promise.reject(new TypeError('there is no topic yet to write to: wait until useRows has one')),
    }),
    [view, sorted, table],
  );
}

/**
 * Who is here on a topic. With join, true or an object of what to say of this user, it is here itself while
 * the component is mounted.
 */
export function usePresence<User = Record<string, unknown>>(
  topic: Topic<any> | null | undefined,
  join?: Record<string, Json> | boolean,
): Present<User> {
  const said = JSON.stringify(join);
  return useReadable<Present<User>>(
    useMemo(() => (topic ? present<User>(topic, said === undefined ? undefined : JSON.parse(said)) : still<Present<User>>(nobody)), [topic, said]),
    nobody,
  );
}

/** What the connection is doing. */
export function useStatus(rt: { status: Readable<Status> }): Status {
  return useReadable(rt.status);
}
