import { C as State, D as TopicMap, E as Topic, O as TopicOptions, S as SnapshotItem, T as SubscribedItem, _ as Presence, a as EventItem, b as ResetItem, c as Filter, d as Item, f as Json, g as PlaceStorage, h as Place, i as DeniedItem, l as GapItem, m as Page, n as CursorOf, o as EventMap, p as Notices, r as Cursors, s as EventOf, t as ConnectOptions, u as Heard, v as Readable, w as Status, x as RowEvents, y as Realtime } from "./types.js";

//#region src/connect.d.ts
/**
 * Connects to a server: ws, wss, http or https, or an address relative to the page; without a
 * path, /ws. It returns at once, and comes back by itself after whatever cut it off.
 */
declare function connect<T extends TopicMap = TopicMap>(url: string | URL, options?: ConnectOptions): Realtime<T>;
//#endregion
//#region src/error.d.ts
/** A refusal of the server, or of the client itself. code is one of docs/protocol.md's. */
declare class RealtimeError extends Error {
  readonly code: string;
  /** In milliseconds; where waiting helps. */
  readonly retryAfter?: number | undefined;
  readonly name = "RealtimeError";
  constructor(code: string, message: string, /** In milliseconds; where waiting helps. */

  retryAfter?: number | undefined);
}
//#endregion
export { ConnectOptions, CursorOf, Cursors, DeniedItem, EventItem, EventMap, EventOf, Filter, GapItem, Heard, Item, Json, Notices, Page, Place, PlaceStorage, Presence, Readable, Realtime, RealtimeError, ResetItem, RowEvents, SnapshotItem, State, Status, SubscribedItem, Topic, TopicMap, TopicOptions, connect };