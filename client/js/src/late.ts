import type { Frame, Link, Subscription, Wanted } from './link.js';
import { Store } from './store.js';
import type { Item, Json, Status } from './types.js';

/** A link whose code is loaded while it is used already. */
export class LateLink implements Link {
  readonly status = new Store<Status>({ state: 'connecting', degraded: [] });
  #link: Link | undefined;
  #waiting: ((link: Link) => void)[] = [];
  #closed = false;

  constructor(link: Promise<Link>) {
    void link.then((loaded) => {
      this.#link = loaded;
      for (const run of this.#waiting.splice(0)) run(loaded);
      if (this.#closed) loaded.close();
      else loaded.status.subscribe((status) => this.status.set(status));
    });
  }

  /** Runs begin when the link is there, unless what is returned is called before; that ends what it began. */
  #when(begin: (link: Link) => () => void): () => void {
    let over = false;
    let end: (() => void) | undefined;
    const run = (link: Link): void => {
      if (!over) end = begin(link);
    };
    if (this.#link) run(this.#link);
    else this.#waiting.push(run);
    return () => {
      over = true;
      end?.();
    };
  }

  open(wanted: Wanted, take: (item: Item) => void): Subscription {
    const close = this.#when((link) => {
      const subscription = link.open(wanted, take);
      return () => subscription.close();
    });
    return { close };
  }

  request(frame: Frame, options?: { again?: boolean; signal?: AbortSignal }): Promise<Frame> {
    return new Promise((done, fail) => {
      this.#when((link) => {
        link.request(frame, options).then(done, fail);
        return () => {};
      });
    });
  }

  send(frame: Frame): void {
    this.#link?.send(frame);
  }

  follow(topic: string, enter: Frame, exit: Frame, take: (event: string, data: Json) => void): () => void {
    return this.#when((link) => link.follow(topic, enter, exit, take));
  }

  cut(): void {
    this.#link?.cut();
  }

  close(): void {
    this.#closed = true;
    this.#link?.close();
    this.status.set({ state: 'closed', degraded: [] });
  }
}
