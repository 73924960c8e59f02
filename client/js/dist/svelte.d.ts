import { E as Topic, a as EventItem, f as Json, o as EventMap, v as Readable } from "./types.js";
import { t as Present } from "./hooks.js";
import { Answer, Change, Key, RowOf, Rows, RowsOptions, RowsState, RowsView, rows } from "./rows.js";

//#region src/svelte.d.ts
/** The newest events of a topic, oldest first, at most limit, from when somebody listens; anew after a gap or a reset. */
declare function events<E extends EventMap>(topic: Topic<E>, limit?: number): Readable<readonly EventItem<E>[]>;
/** Who is here on a topic. With join, true or an object of what to say of this user, it is here itself while somebody listens. */
declare function presence<User = Record<string, unknown>>(topic: Topic<any>, join?: Record<string, Json> | boolean): Readable<Present<User>>;
//#endregion
export { type Answer, type Change, type Key, type Present, type RowOf, type Rows, type RowsOptions, type RowsState, type RowsView, events, presence, rows };