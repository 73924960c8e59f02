import { endpoint, webSocket } from './dial.js';
import { RealtimeError } from './error.js';
import { Lane, type Common, type Follow } from './lane.js';
import type { Frame, Link, Subscription, Wanted } from './link.js';
import { overlaps } from './names.js';
import { Store } from './store.js';
import { Sub } from './subscription.js';
import type { ConnectOptions, Item, Json, Status } from './types.js';

/**
 * A Link over connections of one's own. There is one, unless subscriptions overlap: the server
 * hands a session each event once, so what selects the same topics as another subscription goes
 * over another connection, and each gets all of its events.
 */
export class SocketLink implements Link {
  readonly status = new Store<Status>({ state: 'connecting', degraded: [] });
  readonly #common: Common;
  readonly #lanes: Lane[] = [];
  readonly #first: Lane;
  #unlisten: () => void;

  constructor(url: string | URL, options: ConnectOptions) {
    this.#common = { url: endpoint(url), options };
    if (options.transport === 'websocket' && !webSocket(options)) {
      throw new RealtimeError('unsupported', 'there is no WebSocket here: pass one as the option WebSocket, or leave out transport');
    }
    this.#first = this.#lane();
    this.#unlisten = this.#listen();
  }

  #lane(): Lane {
    const lane = new Lane(this.#common);
    this.#lanes.push(lane);
    lane.status.subscribe((status) => {
      if (status.state === 'refused') for (const each of this.#lanes) each.close('refused', status.error);
      if (lane === this.#lanes[0] || status.state === 'refused') this.status.set(status);
    });
    return lane;
  }

  open(wanted: Wanted, take: (item: Item) => void): Subscription {
    const fits = (one: Lane): boolean => ![...one.subs.keys()].some((name) => overlaps(name, wanted.topic));
    const lane = this.#lanes.find(fits) ?? this.#lane();
    const sub = new Sub(wanted, take, lane);
    lane.add(sub);
    return {
      close: () => {
        sub.close();
        this.#trim();
      },
    };
  }

  /** Closes connections that nobody needs any more. */
  #trim(): void {
    for (const lane of this.#lanes.slice(1)) {
      if (lane.subs.size) continue;
      lane.close();
      this.#lanes.splice(this.#lanes.indexOf(lane), 1);
    }
  }

  request(frame: Frame, options?: { again?: boolean; signal?: AbortSignal }): Promise<Frame> {
    return this.#first.request(frame, options);
  }

  send(frame: Frame): void {
    this.#first.send(frame);
  }

  follow(topic: string, enter: Frame, exit: Frame, take: (event: string, data: Json) => void): () => void {
    const follow: Follow = { topic, enter, take };
    this.#first.follows.add(follow);
    this.send(enter);
    return () => {
      if (this.#first.follows.delete(follow)) this.send(exit);
    };
  }

  cut(): void {
    for (const lane of this.#lanes) lane.cut();
  }

  close(): void {
    this.#unlisten();
    for (const lane of this.#lanes) lane.close();
  }

  /** Wakes with the network and with the page. */
  #listen(): () => void {
    const { document, addEventListener, removeEventListener } = globalThis;
    if (!addEventListener) return () => {};
    const each = (what: (lane: Lane) => void) => () => this.#lanes.forEach(what);
    const online = each((lane) => lane.wake(true));
    const offline = each((lane) => lane.network());
    const visible = (): void => {
      if (document.visibilityState === 'visible') this.#lanes.forEach((lane) => lane.wake());
    };
    addEventListener('online', online);
    addEventListener('offline', offline);
    document?.addEventListener('visibilitychange', visible);
    return () => {
      removeEventListener('online', online);
      removeEventListener('offline', offline);
      document?.removeEventListener('visibilitychange', visible);
    };
  }
}
