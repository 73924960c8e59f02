import type { RealtimeError } from './error.js';
import type { Link, Subscription, Wanted } from './link.js';
import { isPattern } from './names.js';
import { canonical } from './share-words.js';
import type { EventItem, Item, Place, SnapshotItem } from './types.js';

/** What is kept of one topic for tabs that come later: at most so many events, and characters of JSON. */
const maxEvents = 5000;
const maxSize = 4 << 20;

/** One tab's subscription. */
export interface Listener {
  /** Hands an item over; size is that of its JSON. */
  take(item: Item, size: number): void;
  /** The subscription has to be opened elsewhere, from where its tab is. */
  lost(): void;
}

interface Kept {
  item: EventItem;
  size: number;
}

/**
 * A subscription that several tabs listen to. It keeps what it was told last, so that a tab that
 * comes later is told exactly what it would have been told over a connection of its own: from its
 * place on, or the snapshot and what followed. Where that cannot be, it is not let in.
 */
export class SharedTopic {
  /** Those who are told, and how. */
  private readonly listeners = new Map<Listener, Listener['take']>();
  private readonly subscription: Subscription;
  /** Who wait for the head of the moment when they came. */
  private readonly waiting = new Set<Listener>();
  /** Who have seen the topic up to a seq, and want no snapshot that is older. */
  private readonly picky = new Map<Listener, number>();
  private readonly like: string;
  /** Everything up to here has been told; undefined before the first answer, and during a snapshot. */
  private place: Place | undefined;
  /** The seq of the newest answer to a subscribe. */
  private subscribed: number | undefined;
  /** The place that the kept events begin after. */
  private base: Place | undefined;
  private events: Kept[] = [];
  /** What came before them: the parts of the snapshot, if all are there. */
  private parts: { item: SnapshotItem; size: number }[] | undefined;
  private size = 0;
  private over = false;

  /** ended is called when nobody listens any more, or the server has ended it; moved after each item. */
  constructor(
    private readonly link: Link,
    readonly wanted: Wanted,
    private readonly ended: () => void,
    private readonly moved: () => void,
  ) {
    this.like = likeness(wanted);
    this.place = this.base = wanted.place;
    if (wanted.snapshot && !wanted.place) this.parts = [];
    this.subscription = link.open(wanted, (item) => this.take(item));
  }

  /** Lets in whoever it was opened for. */
  add(listener: Listener, take: Listener['take'] = (item, size) => listener.take(item, size)): void {
    this.listeners.set(listener, take);
  }

  /**
   * Lets a listener in who wants the same, if it can be told all that it is to be told, and says
   * whether it can. since: the newest seq that it has seen, where it wants a snapshot once more.
   */
  join(wanted: Wanted, since: number | undefined, listener: Listener): boolean {
    if (this.over || likeness(wanted) !== this.like) return false;
    if (wanted.place) return this.joinAt(wanted.place, listener);
    if (wanted.snapshot) return this.joinSnapshot(since, listener);
    return this.joinNow(listener);
  }

  private joinAt(place: Place, listener: Listener): boolean {
    if (this.subscribed === undefined) {
      if (canonical(place) !== canonical(this.wanted.place)) return false;
      this.add(listener); // they are told the same
      return true;
    }
    const kept = this.after(place);
    if (!kept) return false;
    const topic = this.wanted.topic;
    listener.take({ type: 'subscribed', topic, seq: place.after, resumed: true }, 0);
    for (const { item, size } of kept) listener.take(item, size);
    this.add(listener);
    return true;
  }

  /** The events after a place, if it is one of those that are kept. */
  private after(place: Place): Kept[] | undefined {
    const { base } = this;
    if (!base || this.subscribed === undefined || (place.asOf ?? '') !== (base.asOf ?? '')) return undefined;
    // A place that was not reached by an event has no id; one that has must agree.
    const same = (here: Place): boolean =>
      here.after === place.after && (place.after === 0 || place.id === undefined || place.id === here.id);
    if (same(base)) return this.events;
    const i = this.events.findIndex(({ item }) => same(item.place));
    return i < 0 ? undefined : this.events.slice(i + 1);
  }

  private joinSnapshot(since: number | undefined, listener: Listener): boolean {
    const { parts } = this;
    if (!parts) return false;
    const from = this.base?.after ?? this.subscribed;
    if (from === undefined && since !== undefined) {
      this.picky.set(listener, since);
      return true;
    }
    if (from !== undefined) {
      if (since !== undefined && from < since) return false;
      listener.take({ type: 'subscribed', topic: this.wanted.topic, seq: this.subscribed ?? from, resumed: false }, 0);
      for (const { item, size } of parts) listener.take(item, size);
      for (const { item, size } of this.events) listener.take(item, size);
    }
    this.add(listener);
    return true;
  }

  /**
   * Lets somebody in from now on. What this subscription has yet to catch up with is not now: so
   * the topic is asked for its head, and the listener is told what comes after it.
   */
  private joinNow(listener: Listener): boolean {
    if (this.base?.asOf) return false; // it is not told of events that its snapshot held
    if (this.place === undefined) {
      this.add(listener); // like the first one
      return true;
    }
    this.waiting.add(listener);
    void this.ask(listener);
    return true;
  }

  private async ask(listener: Listener): Promise<void> {
    const { topic } = this.wanted;
    while (this.waiting.has(listener)) {
      try {
        const frame = { type: 'history', topic, after: this.place!.after, limit: 1 };
        const { head } = await this.link.request(frame, { again: true });
        return this.begin(listener, head as number);
      } catch (error) {
        const { code } = error as RealtimeError;
        // It may follow but not look back: then it is told a little of what came before.
        if (code !== 'unavailable' && code !== 'rate_limited') return this.begin(listener, 0);
      }
      await new Promise((again) => setTimeout(again, 1000));
    }
  }

  private begin(listener: Listener, head: number): void {
    if (!this.waiting.delete(listener)) return;
    const place = this.place!; // of a topic without snapshot there is one for good
    const { topic } = this.wanted;
    if (place.after >= head) {
      this.add(listener);
      return listener.take({ type: 'subscribed', topic, seq: place.after, resumed: false }, 0);
    }
    // Not there yet. What is before the head is passed over; a gap or reset beyond it is told.
    this.add(listener, (item, size) => {
      if (item.type === 'event' && item.place.after <= head) return;
      if (item.type === 'gap' && item.tail <= head + 1) return;
      if (item.type === 'subscribed' && item.seq < head) return;
      if (item.type === 'reset') head = 0;
      listener.take(item, size);
    });
    // After it is in, so that it is out again if this is too much for it.
    listener.take({ type: 'subscribed', topic, seq: head, resumed: false }, 0);
  }

  /**
   * Moves all who listen to another subscription to the same topic, if that can go on for them
   * exactly where this one is, and says whether it can. This one is closed then.
   */
  moveTo(other: SharedTopic): boolean {
    if (this.over || other.over || this.like !== other.like || this.wanted.snapshot || this.waiting.size) return false;
    const kept = this.place && this.subscribed !== undefined ? other.after(this.place) : undefined;
    if (!kept) return false;
    for (const [listener, take] of this.listeners) {
      for (const { item, size } of kept) take(item, size);
      // That may have been too much for it; then it has left.
      if (this.listeners.has(listener)) other.add(listener, take);
    }
    this.listeners.clear();
    this.close();
    return true;
  }

  has(listener: Listener): boolean {
    return this.listeners.has(listener) || this.waiting.has(listener) || this.picky.has(listener);
  }

  remove(listener: Listener): void {
    this.waiting.delete(listener);
    this.picky.delete(listener);
    this.listeners.delete(listener);
    if (!this.listeners.size && !this.waiting.size && !this.picky.size) this.close();
  }

  close(): void {
    if (this.over) return;
    this.over = true;
    this.subscription.close();
    this.ended();
  }

  private take(item: Item): void {
    const size = item.type === 'event' || item.type === 'snapshot' ? JSON.stringify(item).length : 0;
    this.note(item, size);
    if (item.type === 'subscribed') this.choose(item.seq);
    for (const take of [...this.listeners.values()]) take(item, size);
    if (item.type !== 'denied') return this.moved();
    this.over = true;
    for (const listener of [...this.waiting, ...this.picky.keys()]) listener.take(item, size);
    this.waiting.clear();
    this.picky.clear();
    this.ended();
  }

  private choose(seq: number): void {
    for (const [listener, since] of [...this.picky]) {
      this.picky.delete(listener);
      if (seq >= since) this.add(listener);
      else listener.lost();
    }
  }

  /** Keeps the place, and the newest items. */
  private note(item: Item, size: number): void {
    const { snapshot, topic } = this.wanted;
    switch (item.type) {
      case 'subscribed':
        this.subscribed = item.seq;
        if (!this.place && !snapshot) this.place = this.base = { after: item.seq };
        return;
      case 'snapshot':
        if (item.first) this.forget([]);
        if (this.parts) {
          this.parts.push({ item, size });
          this.size += size;
        }
        if (item.last) this.place = this.base = item.place;
        break;
      case 'event':
        this.place = item.place;
        this.events.push({ item, size });
        this.size += size;
        break;
      case 'gap':
        this.forget(undefined);
        if (snapshot) this.place = undefined;
        else if (!isPattern(topic)) this.place = { after: item.tail - 1, ...(this.place?.asOf && { asOf: this.place.asOf }) };
        this.base = this.place;
        return;
      case 'reset':
        this.forget(undefined);
        this.place = this.base = snapshot ? undefined : { after: item.head };
        return;
    }
    while (this.size > maxSize || this.events.length > maxEvents) {
      if (this.parts) {
        for (const part of this.parts) this.size -= part.size;
        this.parts = undefined;
        continue;
      }
      // Half of them at once: one by one would move all the others each time.
      const dropped = this.events.splice(0, Math.ceil(this.events.length / 2));
      if (!dropped.length) return;
      for (const each of dropped) this.size -= each.size;
      this.base = dropped.at(-1)!.item.place;
    }
  }

  private forget(parts: [] | undefined): void {
    this.events = [];
    this.parts = parts;
    this.size = 0;
    this.base = undefined;
  }
}

/** What must be equal for two to share a subscription. */
function likeness({ filter, snapshot }: Wanted): string {
  return canonical([filter ?? null, !!snapshot]);
}
