import { E as Topic, a as EventItem, f as Json, o as EventMap, v as Readable, w as Status } from "./types.js";
import { n as TopicHandlers, t as Present } from "./hooks.js";
import { Answer, Change, Key, RowOf, Rows, RowsOptions, RowsState, RowsView } from "./rows.js";

//#region src/react.d.ts
/** The value of anything that the client has to show: rt.status, topic.cursors, a store of one's own. server is what it is while rendered on a server. */
declare function useReadable<T>(readable: Readable<T>, server?: T): T;
/**
 * Calls handlers, by the name of an event or notice, while the component is mounted. They may be
 * other functions with each render. No topic: nothing.
 */
declare function useTopic<E extends EventMap>(topic: Topic<E> | null | undefined, handlers: TopicHandlers<E>): void;
/** The newest events of a topic, oldest first, at most limit (default 100), while the component is mounted; anew after a gap or a reset. */
declare function useTopic<E extends EventMap>(topic: Topic<E> | null | undefined, limit?: number): readonly EventItem<E>[];
/** A live table at one moment, and what to do with it. */
type UsedRows<Row> = RowsView<Row> & Pick<Rows<Row>, 'row' | 'write'>;
/**
 * The live table of a topic that was opened with a snapshot: see rows. Components with the same
 * topic and key share one. Without a topic it is loading for ever.
 */
declare function useRows<E extends EventMap, Row = RowOf<E>>(topic: Topic<E> | null | undefined, options?: RowsOptions<NoInfer<Row>>): UsedRows<Row>;
/**
 * Who is here on a topic. With join, true or an object of what to say of this user, it is here itself while
 * the component is mounted.
 */
declare function usePresence<User = Record<string, unknown>>(topic: Topic<any> | null | undefined, join?: Record<string, Json> | boolean): Present<User>;
/** What the connection is doing. */
declare function useStatus(rt: {
  status: Readable<Status>;
}): Status;
//#endregion
export { type Answer, type Change, type Key, type Present, type RowOf, type Rows, type RowsOptions, type RowsState, type RowsView, type TopicHandlers, UsedRows, usePresence, useReadable, useRows, useStatus, useTopic };