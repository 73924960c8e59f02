import { endpoint } from './address.js';
import { RealtimeError } from './error.js';
import { LateLink } from './late.js';
import type { Link } from './link.js';
import { isPattern } from './names.js';
import { report } from './store.js';
import { asTopic, TopicOf } from './topic.js';
import type { ConnectOptions, Realtime, Topic, TopicMap, TopicOptions } from './types.js';

/**
 * Makes what carries the topics, and loads what is needed for that: a connection of one's own, or
 * that of all tabs of a browser, if it can be shared.
 */
function makeLink(url: URL, options: ConnectOptions): Link {
  const load = (): Promise<Link> => import('./socket.js').then(({ SocketLink }) => new SocketLink(url, options));
  const own = (): Link => new LateLink(load().catch(() => new Promise((resolve) => setTimeout(() => resolve(load()), 1000))));
  const { share, WebSocket, fetch } = options;
  // What the app brings along cannot be given to a worker.
  if (share === false || WebSocket || fetch || typeof document !== 'object' || typeof SharedWorker !== 'function') return own();
  return new LateLink(import('./share.js').then(({ shared }) => shared(url.href, options, own)).catch(own));
}

/**
 * Connects to a server: ws, wss, http or https, or an address relative to the page; without a
 * path, /ws. It returns at once, and comes back by itself after whatever cut it off.
 */
export function connect<T extends TopicMap = TopicMap>(url: string | URL, options: ConnectOptions = {}): Realtime<T> {
  const target = endpoint(url);
  if (options.transport === 'websocket' && !(options.WebSocket ?? globalThis.WebSocket)) {
    throw new RealtimeError('unsupported', 'there is no WebSocket here: pass one as the option WebSocket, or leave out transport');
  }
  const link = makeLink(target, options);
  const { storage } = options;
  const saver = storage && import('./places.js').then(({ Saver }) => new Saver(storage, target.host, report));
  const topics = new Map<string, TopicOf>();
  return {
    status: link.status,
    topic<Name extends keyof T & string>(name: Name, wanted?: TopicOptions): Topic<T[Name]> {
      let topic = topics.get(name);
      if (!topic) {
        check(name, wanted ?? {});
        topic = new TopicOf(link, name, wanted ?? {}, options.buffer ?? 1000, saver, () => topics.delete(name));
        topics.set(name, topic);
      } else if (wanted && JSON.stringify(wanted) !== JSON.stringify(topic.options)) {
        throw new RealtimeError('invalid', `${name} has other options: close it first`);
      }
      return asTopic(topic) as unknown as Topic<T[Name]>;
    },
    cut: () => link.cut(),
    close: () => {
      for (const topic of [...topics.values()]) topic.close();
      void saver?.then((one) => one.close());
      link.close();
    },
  };
}

function check(name: string, { after, snapshot }: TopicOptions): void {
  if (!/^[ !#-[\]-~]{1,256}$/.test(name)) {
    throw new RealtimeError('invalid_topic', `${JSON.stringify(name)} is not a topic: 1 to 256 printable ASCII characters without " and \\`);
  }
  const from = typeof after === 'object' ? after.after : (after ?? 0);
  if (!Number.isSafeInteger(from) || from < 0) {
    throw new RealtimeError('invalid', `after is ${from}; it must be a whole number, 0 or more`);
  }
  if (snapshot && (after !== undefined || isPattern(name))) {
    throw new RealtimeError('invalid', `${name}: a snapshot begins anew, and is of one topic; leave out after, or snapshot`);
  }
}
