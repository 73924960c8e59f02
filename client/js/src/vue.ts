import {
  computed,
  type ComputedRef,
  getCurrentInstance,
  type MaybeRefOrGetter,
  onMounted,
  onScopeDispose,
  type ShallowRef,
  shallowRef,
  toValue,
  watch,
} from 'vue';
import { lastEvents, listen, present, type Present, type TopicHandlers } from './hooks.js';
import { type RowOf, type Rows, rows, type RowsOptions, type RowsView } from './rows.js';
import type { EventItem, EventMap, Json, Readable, Status, Topic } from './types.js';

export type { Answer, Change, Key, RowOf, Rows, RowsOptions, RowsState, RowsView } from './rows.js';
export type { Present, TopicHandlers } from './hooks.js';

/** A topic, or what gives one: a ref or a function. None: nothing is shown until there is one. */
export type MaybeTopic<E extends EventMap> = MaybeRefOrGetter<Topic<E> | null | undefined>;

/** Does something while the scope lives: of a component once it is mounted, so that nothing begins on a server, where nothing ends. */
function during(begin: () => () => void): void {
  let end: (() => void) | undefined;
  let over = false;
  onScopeDispose(() => {
    over = true;
    end?.();
  });
  const start = (): void => {
    if (!over) end = begin();
  };
  if (getCurrentInstance()) onMounted(start);
  else start();
}

/** The same for what source gives, and anew when it gives another one. */
function following<T>(source: () => T, begin: (of: T) => (() => void) | undefined): void {
  during(() => {
    let end: (() => void) | undefined;
    const stop = watch(
      source,
      (of) => {
        const before = end;
        end = begin(of);
        before?.(); // afterwards, so that what both need goes on
      },
      { immediate: true, flush: 'sync' },
    );
    return () => {
      stop();
      end?.();
    };
  });
}

/** The value of anything that the client has to show: rt.status, topic.cursors, a store of one's own, or what a function gives. */
export function useReadable<T>(readable: MaybeRefOrGetter<Readable<T>>): Readonly<ShallowRef<T>> {
  const value = shallowRef(toValue(readable).get());
  following(
    () => toValue(readable),
    (readable) => readable.subscribe((now) => (value.value = now)),
  );
  return value;
}

const none: Readable<any> = { get: () => undefined, subscribe: (run) => (run(undefined), () => {}) };

/** A store of what the topic of this moment is, or of nothing. */
function of<E extends EventMap, T>(topic: MaybeTopic<E>, make: (topic: Topic<E>) => Readable<T>): ComputedRef<Readable<T | undefined>> {
  return computed(() => {
    const now = toValue(topic);
    return now ? make(now) : none;
  });
}

/** Calls handlers, by the name of an event or notice, while the scope lives. */
export function useTopic<E extends EventMap>(topic: MaybeTopic<E>, handlers: TopicHandlers<E>): void;
/** The newest events of a topic, oldest first, at most limit (default 100), while the scope lives; anew after a gap or a reset. */
export function useTopic<E extends EventMap>(topic: MaybeTopic<E>, limit?: number): ComputedRef<readonly EventItem<E>[]>;
export function useTopic<E extends EventMap>(
  topic: MaybeTopic<E>,
  wanted: TopicHandlers<E> | number = 100,
): ComputedRef<readonly EventItem<E>[]> | void {
  if (typeof wanted === 'number') {
    const events = useReadable(of(topic, (topic) => lastEvents(topic, wanted)));
    return computed(() => events.value ?? []);
  }
  following(
    () => toValue(topic),
    (topic) => (topic ? listen(topic, Object.keys(wanted), () => wanted) : undefined),
  );
}

/** A live table, as refs. */
export interface UsedRows<Row> extends Pick<Rows<Row>, 'row' | 'write'> {
  readonly rows: ComputedRef<RowsView<Row>['rows']>;
  readonly state: ComputedRef<RowsView<Row>['state']>;
  readonly error: ComputedRef<Error | undefined>;
  readonly pending: ComputedRef<RowsView<Row>['pending']>;
  readonly oversize: ComputedRef<RowsView<Row>['oversize']>;
}

const loading: RowsView<never> = { rows: [], state: 'loading', pending: new Set(), oversize: [] };

/** The live table of a topic that was opened with a snapshot: see rows. Components with the same topic and key share one. */
export function useRows<E extends EventMap, Row = RowOf<E>>(topic: MaybeTopic<E>, options: RowsOptions<NoInfer<Row>> = {}): UsedRows<Row> {
  const table = of(topic, (topic) => rows<E, Row>(topic, options)) as ComputedRef<Rows<Row>>;
  const used = useReadable<RowsView<Row> | undefined>(table);
  const view = computed<RowsView<Row>>(() => used.value ?? loading);
  return {
    rows: computed(() => view.value.rows),
    state: computed(() => view.value.state),
    error: computed(() => view.value.error),
    pending: computed(() => view.value.pending),
    oversize: computed(() => view.value.oversize),
    row: (key) => table.value.row?.(key),
    write: (change, send) =>
      table.value.write?.(change, send) ?? Promise.reject(new TypeError('there is no topic yet to write to: wait until useRows has one')),
  };
}

/** Who is here on a topic. With join, true or an object of what to say of this user, it is here itself while the scope lives. */
export function usePresence<User = Record<string, unknown>>(
  topic: MaybeTopic<any>,
  join?: MaybeRefOrGetter<Record<string, Json> | boolean | undefined>,
): ComputedRef<Present<User>> {
  const found = useReadable(of(topic, (topic) => present<User>(topic, toValue(join))));
  return computed(() => found.value ?? { users: new Map() });
}

/** What the connection is doing. */
export function useStatus(rt: { status: Readable<Status> }): Readonly<ShallowRef<Status>> {
  return useReadable(rt.status);
}
