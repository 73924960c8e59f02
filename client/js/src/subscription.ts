import type { Backoff } from './backoff.js';
import { asked, eventItem, history, type Asked } from './frames.js';
import type { Frame, Subscription, Wanted } from './link.js';
import { isPattern } from './names.js';
import type { Item, Json, Place } from './types.js';

/** How often a hole is filled without getting on before the connection is given up. */
const maxHeals = 3;
/** How many frames may wait for a hole to be filled; more are asked for again. */
const maxHeld = 10_000;

/** What a subscription needs of the connection that it is on. */
export interface Host {
  /** Sends its subscribe, and gives the ref of it. */
  ask(sub: Sub): void;
  /** Asks in this connection only. */
  request(frame: Frame): Promise<Frame>;
  /** Ends the connection: everything is asked for again in the next one, which does not come early. */
  giveUp(why: string): void;
  backoff(): Backoff;
  forget(sub: Sub): void;
}

/**
 * A subscription as docs/protocol.md, "Keeping a place", wants it of a client. Frames come
 * in as the server sends them, items go out in order, each event once.
 */
export class Sub implements Subscription {
  readonly pattern: boolean;
  /** What the app has seen: everything up to here. */
  place: Place | undefined;
  /** Of the subscribe that is to be answered; 0 for none. */
  ref = 0;
  /** Of the subscribe whose snapshot is on its way; 0 for none. */
  begin = 0;
  /** The tail of the newest gap of a pattern. */
  #told = 0;
  #live = false;
  #resetting = false;
  #begun = false;
  #heals = 0;
  #held: Frame[] | undefined;
  #closed = false;
  #timer: ReturnType<typeof setTimeout> | undefined;
  readonly #pause: Backoff;

  constructor(
    readonly wanted: Wanted,
    readonly take: (item: Item) => void,
    readonly host: Host,
  ) {
    this.pattern = isPattern(wanted.topic);
    this.place = wanted.place;
    this.#pause = host.backoff();
  }

  get topic(): string {
    return this.wanted.topic;
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.cutOff();
    this.host.forget(this);
  }

  /** What to ask for now. From here on nothing of what was asked for before counts. */
  asked(ref: number): Asked {
    this.cutOff();
    this.ref = ref;
    return asked(this.topic, this.place, this.wanted.snapshot, this.wanted.filter);
  }

  cutOff(): void {
    clearTimeout(this.#timer);
    this.ref = this.begin = 0;
    this.#live = this.#resetting = false;
    this.#held = undefined;
  }

  handle(frame: Frame): void {
    if (this.#closed) return;
    switch (frame.type) {
      case 'subscribed':
        if (this.ref && frame.ref === this.ref) this.#subscribed(frame);
        return;
      case 'subscribe-denied':
        this.#denied(frame);
        return;
    }
    if (!this.#live) return;
    if (this.#held) {
      if (this.#held.push(frame) > maxHeld) this.host.giveUp(`too much came in while a hole of ${this.topic} was filled`);
      return;
    }
    switch (frame.type) {
      case undefined:
        return this.#event(frame);
      case 'snapshot':
        return this.#snapshot(frame);
      case 'gap':
        return this.#gap(frame);
      case 'reset':
        return this.#reset(frame);
    }
  }

  #subscribed(frame: Frame): void {
    const seq = frame.seq as number;
    const resumed = !!this.place;
    this.#live = true;
    this.#heals = 0;
    if (this.place) {
      // Another place than the one that was asked for: a reset follows. Until it is here the
      // old one is kept, so that losing the connection now cannot hide it.
      this.#resetting = seq !== this.place.after;
    } else if (this.wanted.snapshot) {
      this.begin = this.ref;
      this.#begun = false;
    } else {
      this.place = { after: seq };
    }
    this.ref = 0;
    this.take({ type: 'subscribed', topic: this.topic, seq, resumed });
  }

  #denied(frame: Frame): void {
    const ref = (frame.ref as number | undefined) ?? 0;
    if (ref && ref !== this.ref && ref !== this.begin) return;
    const reason = frame.reason as string;
    const message = frame.message as string | undefined;
    this.cutOff();
    const limited = reason === 'RATE_LIMITED';
    if (ref && (limited || reason === 'INTERNAL_ERROR')) {
      // The server cannot serve it right now.
      this.#timer = setTimeout(() => this.host.ask(this), this.#pause.pause(limited));
      return;
    }
    this.close();
    this.take({ type: 'denied', topic: this.topic, reason, ...(message && { message }) });
  }

  /** Whether seqs may be missing: of what its snapshot holds, and of what its filter leaves out. */
  get #sparse(): boolean {
    return this.pattern || !!this.place?.asOf || !!this.wanted.filter;
  }

  #event(frame: Frame): void {
    const n = (this.pattern ? frame.position : frame.seq) as number;
    if (!this.place || this.#resetting) return this.host.giveUp(`${this.topic} went on at ${n} without a reset`);
    if (n <= this.place.after) return;
    if (n !== this.place.after + 1 && !this.#sparse) return this.#fill(frame);
    const item = eventItem(frame, this.place.asOf);
    this.#heals = 0;
    this.#pause.reset();
    this.place = item.place;
    this.take(item);
  }

  /** Gets by history what is missing before a frame, and holds back what comes meanwhile. */
  #fill(frame: Frame): void {
    if (++this.#heals > maxHeals) return this.host.giveUp(`a hole of ${this.topic} cannot be filled`);
    const held = (this.#held = [frame]);
    const after = this.place!.after;
    this.host.request(history(this.topic, after, 1000)).then(
      (page) => {
        // Else the connection broke, or it was asked for anew.
        if (this.#held !== held) return;
        this.#held = undefined;
        const tail = page.tail as number;
        if (tail > after + 1) this.handle({ type: 'gap', after, tail, head: page.head });
        for (const each of page.events as Frame[]) this.handle(each);
        for (const each of held) this.handle(each);
      },
      () => {
        if (this.#held === held) this.host.giveUp(`a hole of ${this.topic} cannot be filled`);
      },
    );
  }

  #snapshot(frame: Frame): void {
    if (!this.begin) return;
    const last = !frame.more;
    const first = !this.#begun;
    this.#begun = true;
    if (last) {
      this.begin = 0;
      const { seq: after, asOf } = frame as { seq: number; asOf?: string };
      this.place = { after, ...(asOf && { asOf }) };
    }
    const { table, rows = [], events = [], oversize = [] } = frame as { table?: string; rows?: Json[]; events?: Frame[]; oversize?: Json[] };
    this.take({
      type: 'snapshot',
      topic: this.topic,
      ...(table && { table }),
      rows,
      events: events.map((each) => eventItem(each)),
      oversize,
      first,
      last,
      ...(last && { place: this.place! }),
    });
  }

  #gap(frame: Frame): void {
    const tail = frame.tail as number;
    const at = this.place;
    if (!at) return this.host.giveUp(`${this.topic} has a gap before its snapshot`);
    if (this.pattern) {
      // Its place stays, so after a reconnect the server tells this gap again.
      if (tail <= this.#told) return;
      this.#told = tail;
    } else if ((frame.after as number) > at.after && !this.#sparse) {
      return this.#fill(frame);
    } else if (tail - 1 > at.after) {
      this.place = { after: tail - 1, ...(at.asOf && { asOf: at.asOf }) };
    } else {
      return;
    }
    this.take({ type: 'gap', topic: this.topic, after: at.after, tail, head: frame.head as number });
    this.#anew();
  }

  #reset(frame: Frame): void {
    const head = frame.head as number;
    this.place = { after: head };
    this.#resetting = false;
    this.#told = 0;
    this.take({ type: 'reset', topic: this.topic, head });
    this.#anew();
  }

  /** Begins with a snapshot once more: what the app has is incomplete. */
  #anew(): void {
    if (!this.wanted.snapshot || this.#closed) return;
    this.place = undefined;
    this.host.ask(this);
  }
}
