import type { Backoff } from './backoff.js';
import { following } from './following.js';
import { asked, eventItem, history, type Asked } from './frames.js';
import type { Frame, Subscription, Wanted } from './link.js';
import { isPattern } from './names.js';
import type { Item } from './types.js';

/** How often a hole is filled without getting on before the connection is given up. */
const maxHeals = 3;
/** How many frames may wait for a hole to be filled; more are asked for again. */
const maxHeld = 10_000;

/** What a subscription needs of the connection that it is on. */
export interface Host {
  /** Sends its subscribe. */
  ask(sub: Sub): void;
  /** Asks in this connection only. */
  request(frame: Frame): Promise<Frame>;
  /** Ends the connection: everything is asked for again in the next one, which does not come early. */
  giveUp(why: string): void;
  forget(sub: Sub): void;
}

/** A frame as it was read; docs/protocol.md says what is in it. */
export type Read = Record<string, any>;

export interface Sub extends Subscription {
  readonly topic: string;
  /** Of the subscribe that is to be answered; 0 for none. */
  readonly ref: number;
  /** What to ask for now. From here on nothing of what was asked for before counts. */
  asked(ref: number): Asked;
  /** The connection is gone. */
  cutOff(): void;
  handle(frame: Read): void;
}

/**
 * A subscription as docs/protocol.md, "Keeping a place", wants it of a client. Frames come
 * in as the server sends them, items go out in order, each event once.
 */
export function subOf({ topic, place, snapshot, filter }: Wanted, take: (item: Item) => void, host: Host, pauses: Backoff): Sub {
  const pattern = isPattern(topic);
  // place: what the app has seen is everything up to there.
  let ref = 0;
  let begin = 0; // of the subscribe whose snapshot is on its way; 0 for none
  let begun = false;
  let told = 0; // the tail of the newest gap of a pattern
  let live = false;
  let resetting = false;
  let heals = 0;
  let held: Read[] | undefined; // until a hole is filled
  let closed = false;
  let timer: ReturnType<typeof setTimeout> | undefined;

  const giveUp = (why: string): void => host.giveUp(`${topic}: ${why}`);
  const failed = (): void => giveUp('a hole cannot be filled');
  /** Whether seqs may be missing: of what its snapshot holds, and of what its filter leaves out. */
  const sparse = (): unknown => pattern || place?.asOf || filter;
  const hand = (item: Item): void => {
    place = following(place, item, topic, snapshot);
    take(item);
    // Begins with a snapshot once more: what the app has is incomplete.
    if (snapshot && !closed && (item.type === 'gap' || item.type === 'reset')) host.ask(sub);
  };

  /** Gets by history what is missing before a frame, and holds back what comes meanwhile. */
  const fill = (frame: Read): void => {
    if (++heals > maxHeals) return failed();
    const mine = (held = [frame]);
    const { after } = place!;
    host.request(history(topic, after, 1000)).then(
      ({ tail, head, events }: Read) => {
        // Else the connection broke, or it was asked for anew.
        if (held !== mine) return;
        held = undefined;
        if (tail > after + 1) handle({ type: 'gap', after, tail, head });
        [...events, ...mine].forEach(handle);
      },
      () => held === mine && failed(),
    );
  };

  const denied = ({ ref: to, reason, message }: Read): void => {
    if (to && to !== ref && to !== begin) return;
    sub.cutOff();
    const limited = reason === 'RATE_LIMITED';
    if (to && (limited || reason === 'INTERNAL_ERROR')) {
      // The server cannot serve it right now.
      timer = setTimeout(() => host.ask(sub), pauses.pause(limited));
    } else {
      sub.close();
      take({ type: 'denied', topic, reason, message });
    }
  };

  const handle = (frame: Read): void => {
    const { type, seq, tail, head } = frame;
    if (closed) return;
    if (type === 'subscribe-denied') return denied(frame);
    if (type === 'subscribed') {
      if (!ref || frame.ref !== ref) return;
      live = true;
      heals = 0;
      // Another place than the one that was asked for: a reset follows. Until it is here the
      // old one is kept, so that losing the connection now cannot hide it.
      const resumed = !!place;
      resetting = resumed && seq !== place!.after;
      begin = !resumed && snapshot ? ref : 0;
      begun = false;
      ref = 0;
      return hand({ type, topic, seq, resumed });
    }
    if (!live) return;
    if (held) {
      if (held.push(frame) > maxHeld) failed();
    } else if (!type) {
      const n = pattern ? frame.position : seq;
      if (!place || resetting) return giveUp('it went on without a reset');
      if (n <= place.after) return;
      if (n > place.after + 1 && !sparse()) return fill(frame);
      heals = 0;
      pauses.reset();
      hand(eventItem(frame, place.asOf));
    } else if (type === 'snapshot') {
      if (!begin) return;
      const { table, rows = [], events = [], oversize = [], more, asOf } = frame;
      const first = !begun;
      begun = true;
      if (!more) begin = 0;
      const end = more ? undefined : { after: seq, asOf };
      hand({ type, topic, table, rows, events: events.map((each: Read) => eventItem(each)), oversize, first, last: !more, place: end } as Item);
    } else if (type === 'gap') {
      if (!place) return giveUp('it went on without a reset');
      const { after } = place;
      if (!pattern && frame.after > after && !sparse()) return fill(frame);
      if (tail <= (pattern ? told : after + 1)) return;
      told = tail;
      hand({ type, topic, after, tail, head });
    } else if (type === 'reset') {
      resetting = false;
      told = 0;
      hand({ type, topic, head });
    }
  };

  const sub: Sub = {
    topic,
    get ref() {
      return ref;
    },
    asked(to) {
      sub.cutOff();
      ref = to;
      return asked(topic, place, snapshot, filter);
    },
    cutOff() {
      clearTimeout(timer);
      ref = begin = 0;
      live = resetting = false;
      held = undefined;
    },
    handle,
    close() {
      if (closed) return;
      closed = true;
      sub.cutOff();
      host.forget(sub);
    },
  };
  return sub;
}
