import { RealtimeError } from './error.js';
import { Fold, type Key, type KeyFunction } from './fold.js';
import type { Place, Topic } from './types.js';
import { type Answer, type Change, Writes } from './writes.js';

/** How a live table is related to what is in Postgres. */
export type RowsState =
  /** Its first snapshot is not complete: there are no rows yet. */
  | 'loading'
  /** It follows the topic. */
  | 'live'
  /** It shows what was: there is no connection, or a new snapshot is under way. */
  | 'stale'
  /** The server ended the subscription, or never began it; see error. The rows are those of before. */
  | 'denied';

/** A live table at one moment. Nothing in it ever changes: what changes is which view the table has. */
export interface RowsView<Row> {
  /** In the order in which they came, or as sort has it. */
  readonly rows: readonly Row[];
  readonly state: RowsState;
  /** Why it is denied, or why rows are missing: they have no key. */
  readonly error?: Error;
  /** Keys of rows with local writes that have not come back from the server. */
  readonly pending: ReadonlySet<Key>;
  /**
   * What is larger than the server's limit, and therefore not in rows: the keys of rows, or, where a topic is
   * only published to, id and seq of events. Fetch them over HTTP.
   */
  readonly oversize: readonly object[];
}

/** At most so often are listeners told, in milliseconds: once a frame. */
const frame = 16;
/** An event that nobody can apply has the rows read again; at most so often, in milliseconds. */
const refreshPause = 1000;

/** Table is one topic's rows by one key, shared by all who look at them. */
export class Table {
  private readonly fold: Fold;
  private readonly writes: Writes;
  private readonly listeners = new Set<() => void>();
  private ends: (() => void)[] = [];
  /** Where the topic was when this table stopped listening: it may go on from there. */
  private left: Place | undefined;
  private following = false;
  private denied: Error | undefined;

  private view: RowsView<unknown> | undefined;
  private told = 0;
  private telling = false;
  private expiry: ReturnType<typeof setTimeout> | undefined;
  private refreshing: ReturnType<typeof setTimeout> | undefined;
  private refreshed = 0;

  constructor(
    private readonly topic: Topic<any>,
    keyOf: KeyFunction,
    private readonly settle: number,
  ) {
    if (!topic.options.snapshot) {
      throw new TypeError(`rows of ${topic.name}: the topic has to be opened with a snapshot, rt.topic(${JSON.stringify(topic.name)}, { snapshot: true })`);
    }
    this.writes = new Writes(keyOf);
    this.fold = new Fold(topic.name, keyOf, (...change) => this.writes.became(...change));
  }

  get(): RowsView<unknown> {
    return (this.view ??= this.look());
  }

  private look(): RowsView<unknown> {
    const { rows, pending } = this.writes.over(this.fold.content.rows);
    const error = this.denied ?? this.fold.error;
    return {
      rows: [...rows.values()],
      state: this.state,
      ...(error && { error }),
      pending,
      oversize: [...this.fold.content.oversize.values()],
    };
  }

  private get state(): RowsState {
    if (this.denied) return 'denied';
    if (!this.fold.complete) return 'loading';
    return this.fold.current && this.following ? 'live' : 'stale';
  }

  /** The row of that key as it looks now, local writes included. */
  row(key: Key): unknown {
    return this.writes.over(this.fold.content.rows).rows.get(key);
  }

  listen(changed: () => void): () => void {
    const listener = (): void => changed(); // the same function may listen twice
    this.listeners.add(listener);
    if (!this.ends.length) this.start();
    return () => {
      if (!this.listeners.delete(listener) || this.listeners.size) return;
      // Whoever goes in the same breath as another one comes (a page that changes, React's
      // strict mode) costs no subscription.
      queueMicrotask(() => {
        if (!this.listeners.size && this.ends.length) this.stop();
      });
    };
  }

  private start(): void {
    const { topic, fold } = this;
    const begun = topic.place;
    // Others have it going. What they were told since this table left it was not told here.
    const missed = begun !== undefined && !(fold.current && samePlace(begun, this.left));
    if (missed) {
      fold.lost();
      topic.refresh();
    }
    this.following = !missed && begun !== undefined && topic.status.get().state === 'online';
    this.ends = [
      topic.on('subscribed', () => {
        this.denied = undefined;
        this.follow();
      }),
      topic.on('snapshot', (part) => {
        if (fold.snapshot(part)) this.refresh();
        else if (part.last) {
          for (const event of part.events) this.writes.event(event.id);
          this.writes.snapshot(fold.content.rows);
          this.follow();
        }
      }),
      topic.on('event', (event) => {
        const unknown = fold.event(event);
        this.writes.event(event.id);
        if (unknown) this.refresh();
        this.changed();
      }),
      topic.on('gap', () => this.lost()),
      topic.on('reset', () => this.lost()),
      topic.on('denied', ({ reason, message }) => {
        this.denied = new RealtimeError(reason, message ?? `${topic.name} is denied: ${reason}`);
        this.following = false;
        this.changed();
      }),
      topic.status.subscribe(({ state }) => {
        if (state === 'online' || !this.following) return;
        this.following = false;
        this.changed();
      }),
    ];
    this.wait();
    this.changed();
  }

  private stop(): void {
    this.left = this.topic.place;
    for (const end of this.ends) end();
    this.ends = [];
    this.following = false;
    clearTimeout(this.expiry);
    clearTimeout(this.refreshing);
    this.expiry = this.refreshing = undefined;
    this.view = undefined;
  }

  private follow(): void {
    if (!this.following) this.writes.restart(Date.now());
    this.following = true;
    this.wait();
    this.changed();
  }

  private lost(): void {
    this.fold.lost();
    this.changed();
  }

  /** Has the rows read again: at once, or, if they just were, a little later. */
  private refresh(): void {
    this.fold.lost();
    if (this.refreshing !== undefined) return;
    const again = (): void => {
      this.refreshing = undefined;
      this.refreshed = Date.now();
      this.topic.refresh();
    };
    this.refreshing = setTimeout(again, Math.max(0, this.refreshed + refreshPause - Date.now()));
  }

  /** Shows a change at once, and takes it back if send fails. */
  async write<A extends Answer>(changes: readonly Change<any>[], send: () => Promise<A>): Promise<A> {
    const write = this.writes.begin(changes);
    this.changed(true);
    try {
      const answer = await send();
      this.writes.answer(write, answer, Date.now());
      this.wait();
      return answer;
    } catch (error) {
      this.writes.fail(write);
      throw error;
    } finally {
      this.changed(true);
    }
  }

  /** Ends the writes whose event does not come. While there is no connection it cannot, so that does not count. */
  private wait(): void {
    const first = this.writes.answered;
    if (this.expiry !== undefined || first === undefined || !this.following) return;
    this.expiry = setTimeout(() => {
      this.expiry = undefined;
      if (!this.following) return;
      this.writes.expire(Date.now() - this.settle);
      this.changed();
      this.wait();
    }, Math.max(0, first + this.settle - Date.now()));
  }

  /** Tells the listeners, now, or else soon: several changes at once, and not more often than a screen can show. */
  private changed(now = false): void {
    this.view = undefined;
    if (!this.listeners.size) return;
    if (now) return this.tell();
    if (this.telling) return;
    this.telling = true;
    const later = (): void => {
      if (this.telling) this.tell();
    };
    const pause = this.told + frame - Date.now();
    if (pause > 0) setTimeout(later, pause);
    else queueMicrotask(later);
  }

  private tell(): void {
    this.telling = false;
    this.told = Date.now();
    for (const listener of [...this.listeners]) listener();
  }
}

function samePlace(a: Place, b: Place | undefined): boolean {
  return b !== undefined && a.after === b.after && a.id === b.id && a.asOf === b.asOf;
}
