// Tabs that share one connection, in Node: the worker's side and the tabs' side are the real ones,
// on the two ends of real message ports; of the browser only its locks are made here.
import WS from 'ws';
import { socketLink } from '../../src/lane.js';
import type { Link, Wanted } from '../../src/link.js';
import { SharedLink, type Surroundings } from '../../src/share.js';
import { Hubs } from '../../src/share-hub.js';
import type { ConnectOptions, EventItem, Item, Place } from '../../src/types.js';

/** Locks as a browser has them, for tabs that can die. */
class Locks {
  private readonly held = new Map<string, Set<() => void>>();
  hold(name: string): () => void {
    this.held.set(name, new Set());
    return () => {
      const waiting = this.held.get(name);
      this.held.delete(name);
      for (const gone of waiting ?? []) gone();
    };
  }
  watch(name: string, gone: () => void, signal: AbortSignal): void {
    const waiting = this.held.get(name);
    if (!waiting) return void queueMicrotask(() => signal.aborted || gone());
    waiting.add(gone);
    signal.addEventListener('abort', () => waiting.delete(gone));
  }
}

const quick = { minBackoff: 10, maxBackoff: 200 };

/** A worker, and the tabs that it has. */
export class Browser {
  readonly locks = new Locks();
  readonly links: Link[] = [];
  readonly own: Link[] = [];
  readonly tabs = new Set<Tab>();
  private readonly hubs: Hubs;
  readonly die: () => void;
  constructor(readonly server: { ws: string }) {
    this.die = this.locks.hold('worker');
    this.hubs = new Hubs({
      makeLink: (url, options) => {
        const link = socketLink(url, { ...options, WebSocket: WS as unknown as typeof WebSocket });
        this.links.push(link);
        return link;
      },
      lock: 'worker',
      watch: (name, gone, signal) => this.locks.watch(name, gone, signal),
      wake: () => {},
    });
  }
  tab(options: ConnectOptions = {}, change: Partial<Surroundings> = {}): Tab {
    const tab = new Tab(this, { ...quick, ...options }, change);
    this.tabs.add(tab);
    return tab;
  }
  join(tab: Tab): MessagePort {
    const { port1, port2 } = new MessageChannel();
    tab.ports.push(port1);
    this.hubs.connect(port2);
    return port1;
  }
  close(): void {
    for (const tab of this.tabs) tab.close();
  }
}

export class Tab {
  readonly link: SharedLink;
  readonly ports: MessagePort[] = [];
  private readonly releases: (() => void)[] = [];
  dead = false;
  constructor(
    readonly browser: Browser,
    options: ConnectOptions,
    change: Partial<Surroundings>,
  ) {
    const own = (): Link => {
      const link = socketLink(browser.server.ws, { ...options, WebSocket: WS as unknown as typeof WebSocket });
      browser.own.push(link);
      return link;
    };
    this.link = new SharedLink(browser.server.ws, options, own, {
      within: 30_000,
      join: () => browser.join(this),
      hold: (name) => {
        const release = browser.locks.hold(name);
        this.releases.push(release);
        return Promise.resolve(release);
      },
      watch: (name, gone, signal) => browser.locks.watch(name, gone, signal),
      ...change,
    });
  }
  open(wanted: Wanted): Heard {
    const heard = new Heard(this, wanted);
    return heard;
  }
  /** As a process that was killed: nothing is said, only the locks are free. */
  kill(): void {
    this.dead = true;
    this.browser.tabs.delete(this);
    for (const port of this.ports) port.onmessage = null;
    for (const release of this.releases) release();
    setTimeout(() => this.ports.forEach((port) => port.close()), 1000);
  }
  close(): void {
    this.dead = true;
    this.browser.tabs.delete(this);
    this.link.close();
  }
}

/** What one subscription of one tab was told. */
export class Heard {
  readonly items: Item[] = [];
  private readonly subscription;
  closed = false;
  constructor(
    readonly tab: Tab,
    readonly wanted: Wanted,
  ) {
    this.subscription = tab.link.open(wanted, (item) => {
      if (this.closed || tab.dead) throw new Error('told after its end');
      this.items.push(item);
    });
  }
  close(): void {
    this.closed = true;
    this.subscription.close();
  }
  get start(): number | undefined {
    const first = this.items[0];
    return first?.type === 'subscribed' ? first.seq : undefined;
  }
  get events(): EventItem[] {
    return this.items.filter((item) => item.type === 'event');
  }
  get last(): Place | undefined {
    return this.events.at(-1)?.place;
  }
  kinds(): string[] {
    return [...new Set(this.items.map(({ type }) => type))];
  }
}
