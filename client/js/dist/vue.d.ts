import { E as Topic, a as EventItem, f as Json, o as EventMap, v as Readable, w as Status } from "./types.js";
import { n as TopicHandlers, t as Present } from "./hooks.js";
import { Answer, Change, Key, RowOf, Rows, RowsOptions, RowsState, RowsView } from "./rows.js";
import { ComputedRef, MaybeRefOrGetter, ShallowRef } from "vue";

//#region src/vue.d.ts
/** A topic, or what gives one: a ref or a function. None: nothing is shown until there is one. */
type MaybeTopic<E extends EventMap> = MaybeRefOrGetter<Topic<E> | null | undefined>;
/** The value of anything that the client has to show: rt.status, topic.cursors, a store of one's own, or what a function gives. */
declare function useReadable<T>(readable: MaybeRefOrGetter<Readable<T>>): Readonly<ShallowRef<T>>;
/** Calls handlers, by the name of an event or notice, while the scope lives. */
declare function useTopic<E extends EventMap>(topic: MaybeTopic<E>, handlers: TopicHandlers<E>): void;
/** The newest events of a topic, oldest first, at most limit (default 100), while the scope lives; anew after a gap or a reset. */
declare function useTopic<E extends EventMap>(topic: MaybeTopic<E>, limit?: number): ComputedRef<readonly EventItem<E>[]>;
/** A live table, as refs. */
interface UsedRows<Row> extends Pick<Rows<Row>, 'row' | 'write'> {
  readonly rows: ComputedRef<RowsView<Row>['rows']>;
  readonly state: ComputedRef<RowsView<Row>['state']>;
  readonly error: ComputedRef<Error | undefined>;
  readonly pending: ComputedRef<RowsView<Row>['pending']>;
  readonly oversize: ComputedRef<RowsView<Row>['oversize']>;
}
/** The live table of a topic that was opened with a snapshot: see rows. Components with the same topic and key share one. */
declare function useRows<E extends EventMap, Row = RowOf<E>>(topic: MaybeTopic<E>, options?: RowsOptions<NoInfer<Row>>): UsedRows<Row>;
/** Who is here on a topic. With join, true or an object of what to say of this user, it is here itself while the scope lives. */
declare function usePresence<User = Record<string, unknown>>(topic: MaybeTopic<any>, join?: MaybeRefOrGetter<Record<string, Json> | boolean | undefined>): ComputedRef<Present<User>>;
/** What the connection is doing. */
declare function useStatus(rt: {
  status: Readable<Status>;
}): Readonly<ShallowRef<Status>>;
//#endregion
export { type Answer, type Change, type Key, MaybeTopic, type Present, type RowOf, type Rows, type RowsOptions, type RowsState, type RowsView, type TopicHandlers, UsedRows, usePresence, useReadable, useRows, useStatus, useTopic };