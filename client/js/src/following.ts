import { isPattern } from './names.js';
import type { Item, Place } from './types.js';

/** The place after an item, of somebody who was at a place, and began with a snapshot or not. */
export function following(at: Place | undefined, item: Item, topic: string, snapshot?: boolean): Place | undefined {
  const { type } = item;
  if (type === 'event' || type === 'snapshot') return item.place;
  if (type === 'subscribed') return item.resumed || snapshot ? at : { after: item.seq };
  if (type === 'denied') return at;
  // What it has is incomplete now: it begins anew.
  if (snapshot) return undefined;
  if (type === 'reset') return { after: item.head };
  // That of a pattern stays, so that after a reconnect the server tells this gap again.
  return isPattern(topic) ? at : ({ after: item.tail - 1, asOf: at?.asOf } as Place);
}
