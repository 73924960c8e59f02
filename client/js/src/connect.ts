import { endpoint } from './address.js';
import { webSocket } from './dial.js';
import { RealtimeError } from './error.js';
import { socketLink } from './lane.js';
import { lateLink } from './late.js';
import type { Link } from './link.js';
import { report } from './store.js';
import { topicOf } from './topic.js';
import type { ConnectOptions, Realtime, Topic, TopicMap, TopicOptions } from './types.js';

/**
 * Makes what carries the topics: a connection of one's own, or that of all tabs of a browser, if it
 * can be shared; what is needed for that is loaded.
 */
function makeLink(url: URL, options: ConnectOptions): Link {
  const own = (): Link => socketLink(url, options);
  const { share, WebSocket, fetch } = options;
  // What the app brings along cannot be given to a worker.
  if (share === false || WebSocket || fetch || typeof document !== 'object' || typeof SharedWorker !== 'function') return own();
  return lateLink(import('./share.js').then(({ shared }) => shared(url.href, options, own)).catch(own));
}

/**
 * Connects to a server: ws, wss, http or https, or an address relative to the page; without a
 * path, /ws. It returns at once, and comes back by itself after whatever cut it off.
 */
export function connect<T extends TopicMap = TopicMap>(url: string | URL, options: ConnectOptions = {}): Realtime<T> {
  const target = endpoint(url);
  if (options.transport === 'websocket' && !webSocket(options)) {
    throw new RealtimeError('unsupported', 'there is no WebSocket here: pass one as an option, or leave out transport');
  }
  const link = makeLink(target, options);
  const { storage } = options;
  const saver = storage && import('./places.js').then(({ Saver }) => new Saver(storage, target.host, report));
  const topics = new Map<string, Topic<any>>();
  return {
    status: link.status,
    topic(name: string, wanted?: TopicOptions): Topic<any> {
      let topic = topics.get(name);
      if (!topic) {
        topic = topicOf(link, name, wanted ?? {}, options.buffer ?? 1000, saver, () => topics.delete(name));
        topics.set(name, topic);
      } else if (wanted && JSON.stringify(wanted) !== JSON.stringify(topic.options)) {
        throw new RealtimeError('invalid', `${name} has other options: close it first`);
      }
      return topic;
    },
    cut: () => link.cut(),
    close: () => {
      for (const topic of [...topics.values()]) topic.close();
      void saver?.then((one) => one.close());
      link.close();
    },
  };
}
