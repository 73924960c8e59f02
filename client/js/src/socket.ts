import { Lane } from './lane.js';
import type { Link, Subscription, Wanted } from './link.js';
import { overlaps } from './names.js';
import { Sub } from './subscription.js';
import type { ConnectOptions, Item } from './types.js';

/**
 * A Link over connections of one's own. There is one, unless subscriptions overlap: the server
 * hands a session each event once, so what selects the same topics as another subscription goes
 * over another connection, and each gets all of its events.
 */
export class SocketLink extends Lane implements Link {
  #more: Lane[] = [];
  readonly #unlisten: () => void;

  /** url is complete; see endpoint. */
  constructor(url: string | URL, options: ConnectOptions) {
    super({ url: new URL(url), options, failures: 0 });
    this.#unlisten = listen((what) => [this, ...this.#more].forEach(what));
  }

  open(wanted: Wanted, take: (item: Item) => void): Subscription {
    const fits = (one: Lane): boolean => ![...one.subs.keys()].some((name) => overlaps(name, wanted.topic));
    let lane = [this, ...this.#more].find(fits);
    if (!lane) {
      this.#more.push((lane = new Lane(this.common)));
      lane.status.subscribe(({ state, error }) => {
        if (state === 'refused') this.close(state, error);
      });
    }
    const sub = new Sub(wanted, take, lane);
    lane.add(sub);
    return {
      close: () => {
        sub.close();
        // Nobody needs it any more.
        this.#more = this.#more.filter((one) => one.subs.size || one.close());
      },
    };
  }

  override cut(): void {
    super.cut();
    for (const lane of this.#more) lane.cut();
  }

  override close(state?: 'closed' | 'refused', error?: Error): void {
    super.close(state, error);
    this.#unlisten();
    for (const lane of this.#more) lane.close(state, error);
  }
}

/** Wakes connections with the network and with the page. */
function listen(each: (what: (lane: Lane) => void) => void): () => void {
  const { document, addEventListener } = globalThis;
  if (!addEventListener) return () => {};
  const controller = new AbortController();
  const when = (target: EventTarget | undefined, name: string, run: () => void): void =>
    target?.addEventListener(name, run, controller);
  when(globalThis, 'online', () => each((lane) => lane.wake(true)));
  when(globalThis, 'offline', () => each((lane) => lane.wake(false, true)));
  when(document, 'visibilitychange', () => {
    if (document.visibilityState === 'visible') each((lane) => lane.wake());
  });
  return () => controller.abort();
}
