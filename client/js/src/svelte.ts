import { lastEvents, present, type Present } from './hooks.js';
import type { EventItem, EventMap, Json, Readable, Topic } from './types.js';

// Everything the client has to show is a store as Svelte knows them: $store works with these, with
// rt.status, topic.presence and topic.cursors. Svelte itself is not imported. With runes, fromStore of
// svelte/store makes them reactive objects.

export { rows } from './rows.js';
export type { Answer, Change, Key, RowOf, Rows, RowsOptions, RowsState, RowsView } from './rows.js';
export type { Present } from './hooks.js';

/** The newest events of a topic, oldest first, at most limit, from when somebody listens; anew after a gap or a reset. */
export function events<E extends EventMap>(topic: Topic<E>, limit = 100): Readable<readonly EventItem<E>[]> {
  return lastEvents(topic, limit);
}

/** Who is here on a topic. With join, true or an object of what to say of this user, it is here itself while somebody listens. */
export function presence<User = Record<string, unknown>>(topic: Topic<any>, join?: Record<string, Json> | boolean): Readable<Present<User>> {
  return present<User>(topic, join);
}
