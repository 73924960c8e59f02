/**
 * The script of the shared worker: it has one connection for all tabs of an origin that are the
 * same user's of the same server.
 */
import { socketLink } from './lane.js';
import { Hubs } from './share-hub.js';

const locks = navigator.locks;
const lock = `pgcast worker ${crypto.randomUUID()}`;

const hubs = new Hubs({
  makeLink: socketLink,
  lock,
  watch: (name, gone, signal) => {
    locks.request(name, { signal }, gone).catch(() => {}); // aborted
  },
  // A page's link listens to this event, so its one does too.
  wake: () => dispatchEvent(new Event('online')),
});

// The lock is held for as long as the worker lives: tabs wait for its end.
const held = new Promise<void>((resolve) => {
  void locks.request(lock, () => {
    resolve();
    return new Promise(() => {});
  });
});

(globalThis as unknown as { onconnect: (event: MessageEvent) => void }).onconnect = ({ ports }) => {
  const port = ports[0]!;
  void held.then(() => hubs.connect(port));
};
