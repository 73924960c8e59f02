import type { Frame } from './link.js';
import type { Filter, Item, Place } from './types.js';

// Members that are undefined are not there: JSON leaves them out.

/** What one subscription asks for, as an item of a subscribe-batch. */
export interface Asked {
  topic: string;
  after?: number | undefined;
  id?: string | undefined;
  snapshot?: boolean | string | undefined;
  filter?: Filter | undefined;
}

export const hello = (user?: object, token?: string): Frame => ({ type: 'hello', caps: ['batch', 'reset'], user, token });

/** Asks for everything after place, or, without one, for the snapshot, or for what follows from now on. */
export const asked = (topic: string, place?: Place, snapshot?: boolean, filter?: Filter): Asked => ({
  topic,
  after: place?.after,
  id: place?.id,
  snapshot: (place ? place.asOf : snapshot) || undefined,
  filter: filter || undefined,
});

/** The subscribe of one, or the subscribe-batch of several. */
export const subscribe = (ref: number, topics: (Asked | string)[]): Frame =>
  topics[1] ? { type: 'subscribe-batch', ref, topics } : { type: 'subscribe', ref, ...(topics[0] as Asked) };

export const unsubscribe = (topic: string, ref?: number): Frame => ({ type: 'unsubscribe', topic, ref });

export const auth = (token: string): Frame => ({ type: 'auth', token });

export const publish = (topic: string, event: string, data: unknown, key: string): Frame => ({
  type: 'publish',
  topic,
  event,
  data,
  key,
});

export const history = (topic: string, after: number, limit?: number, filter?: Filter): Frame => ({
  type: 'history',
  topic,
  after,
  limit: limit || undefined,
  filter: filter || undefined,
});

type EventItem = Extract<Item, { type: 'event' }>;

/** The item of an event frame. */
export const eventItem = (frame: Frame, asOf?: string): EventItem =>
  ({ ...frame, type: 'event', place: { after: frame.position ?? frame.seq, id: frame.id, asOf } }) as EventItem;
