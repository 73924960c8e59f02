import type { Frame } from './link.js';
import type { Filter, Item, Place } from './types.js';

/** What one subscription asks for, as an item of a subscribe-batch. */
export interface Asked {
  topic: string;
  after?: number;
  id?: string;
  snapshot?: true | string;
  filter?: Filter;
}

export const hello = (user?: object, token?: string): Frame => ({
  type: 'hello',
  caps: ['batch', 'reset'],
  ...(user && { user }),
  ...(token && { token }),
});

/** Asks for everything after place, or, without one, for the snapshot, or for what follows from now on. */
export const asked = (topic: string, place?: Place, snapshot?: boolean, filter?: Filter): Asked => ({
  topic,
  ...(place
    ? { after: place.after, ...(place.id && { id: place.id }), ...(place.asOf && { snapshot: place.asOf }) }
    : snapshot && { snapshot: true }),
  ...(filter && { filter }),
});

/** The subscribe of one, or the subscribe-batch of several. */
export const subscribe = (ref: number, all: Asked[]): Frame =>
  all.length === 1
    ? { type: 'subscribe', ref, ...all[0] }
    : { type: 'subscribe-batch', ref, topics: all.map((one) => (Object.keys(one).length > 1 ? one : one.topic)) };

export const unsubscribe = (topic: string): Frame => ({ type: 'unsubscribe', topic });

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
  ...(limit && { limit }),
  ...(filter && { filter }),
});

/** The item of an event frame. */
export function eventItem(frame: Frame, asOf?: string): Extract<Item, { type: 'event' }> {
  const position = frame.position as number | undefined;
  const id = frame.id as string;
  return {
    ...frame,
    type: 'event',
    place: { after: position ?? (frame.seq as number), id, ...(asOf && { asOf }) },
  } as Extract<Item, { type: 'event' }>;
}
