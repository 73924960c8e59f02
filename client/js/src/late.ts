import type { Link } from './link.js';
import { storeOf } from './store.js';
import type { Status } from './types.js';

/** A link whose code is loaded while it is used already; loaded does not fail. */
export function lateLink(loaded: Promise<Link>): Link {
  const status = storeOf<Status>({ state: 'connecting', degraded: [] });
  let closed = false;
  void loaded.then((link) => link.status.subscribe((now) => closed || status.set(now)));
  /** Runs begin when the link is there, unless what is returned is called before; that ends what it began. */
  const when = (begin: (link: Link, wanted: () => boolean) => () => void): (() => void) => {
    let over = false;
    const began = loaded.then((link) => (over ? undefined : begin(link, () => !over)));
    return () => {
      over = true;
      void began.then((end) => end?.());
    };
  };
  const pass = (method: 'send' | 'cut' | 'close') => (frame?: any): void => void loaded.then((link) => link[method](frame));
  return {
    status,
    open: (wanted, take) => ({
      close: when((link, still) => {
        const subscription = link.open(wanted, (item) => still() && take(item));
        return () => subscription.close();
      }),
    }),
    request: (frame, options) => loaded.then((link) => link.request(frame, options)),
    send: pass('send'),
    follow: (topic, enter, exit, take) => when((link) => link.follow(topic, enter, exit, take)),
    cut: pass('cut'),
    close() {
      closed = true;
      pass('close')();
      status.set({ state: 'closed', degraded: [] });
    },
  };
}
