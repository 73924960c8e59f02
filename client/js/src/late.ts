import type { Frame, Link, Subscription, Wanted } from './link.js';
import { Store } from './store.js';
import type { Item, Json, Status } from './types.js';

/** A link whose code is loaded while it is used already. */
export class LateLink implements Link {
  readonly status = new Store<Status>({ state: 'connecting', degraded: [] });
  #closed = false;

  constructor(readonly link: Promise<Link>) {
    link.then(
      ({ status }) => status.subscribe((now) => this.#closed || this.status.set(now)),
      (error: Error) => this.status.set({ state: 'refused', error, degraded: [] }),
    );
  }

  #then(run: (link: Link) => void): void {
    // What goes wrong with loading it is told by the status.
    this.link.then(run, () => {});
  }

  /** Runs begin when the link is there, unless what is returned is called before; that ends what it began. */
  #when(begin: (link: Link) => () => void): () => void {
    let over = false;
    const began = this.link.then((link) => (over ? undefined : begin(link)));
    began.catch(() => {});
    return () => {
      over = true;
      began.then((end) => end?.(), () => {});
    };
  }

  open(wanted: Wanted, take: (item: Item) => void): Subscription {
    let open = true;
    const end = this.#when((link) => {
      const subscription = link.open(wanted, (item) => open && take(item));
      return () => subscription.close();
    });
    return {
      close: () => {
        open = false;
        end();
      },
    };
  }

  request(frame: Frame, options?: { again?: boolean; signal?: AbortSignal }): Promise<Frame> {
    return this.link.then((link) => link.request(frame, options));
  }

  send(frame: Frame): void {
    this.#then((link) => link.send(frame));
  }

  follow(topic: string, enter: Frame, exit: Frame, take: (event: string, data: Json) => void): () => void {
    return this.#when((link) => link.follow(topic, enter, exit, take));
  }

  cut(): void {
    this.#then((link) => link.cut());
  }

  close(): void {
    this.#closed = true;
    this.#then((link) => link.close());
    this.status.set({ state: 'closed', degraded: [] });
  }
}
