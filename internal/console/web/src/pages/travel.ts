import type { EventItem, Page, Topic } from 'pgcast';
import { writtenAt } from '../format.js';

/** How many events are shown of the past at once. */
export const windowOf = 200;

/** The events around a seq, half of them before it. Fails with the client's error. */
export function around(topic: Topic, seq: number, tail: number): Promise<Page> {
  return topic.history({ after: Math.max(tail - 1, seq - windowOf / 2, 0), limit: windowOf });
}

/**
 * The first event that was written at a time or later, by halving: some twenty questions for a
 * million events. Events are written in the order of their seq but for transactions that overlap,
 * so it is right but for those. Undefined where all are older.
 */
export async function seqAt(topic: Topic, time: number, tail: number, head: number): Promise<number | undefined> {
  const at = async (seq: number): Promise<{ event: EventItem; time: number } | undefined> => {
    const event = (await topic.history({ after: seq - 1, limit: 1 })).events[0];
    const written = event && writtenAt(event.id);
    return event && written !== undefined ? { event, time: written } : undefined;
  };
  let low = Math.max(1, tail);
  let high = head + 1;
  while (low < high) {
    const middle = Math.floor((low + high) / 2);
    const found = await at(middle);
    if (!found || found.time >= time) high = middle;
    else low = Math.max(middle, found.event.seq) + 1;
  }
  return low <= head ? low : undefined;
}
