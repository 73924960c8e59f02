import type { Frame, Link } from './link.js';
import { SharedFollow, type Follower } from './share-live.js';
import { SharedTopic, type Listener } from './share-topic.js';
import { canonical, told, untold, version, type Settings, type ToTab, type ToWorker } from './share-words.js';
import type { ConnectOptions, Item, Status } from './types.js';

/**
 * What a tab may leave untaken, in items and in characters of JSON, before a subscription that has
 * more for it is dropped. It opens it again once it has taken the rest, from where it is.
 */
const maxItems = 10_000;
const maxSize = 16 << 20;
/** How long a tab has for telling its token, in milliseconds, before another one is asked. */
const tokenTimeout = 10_000;

/** What of its surroundings a worker needs. */
export interface Worker {
  makeLink(url: string, options: ConnectOptions): Link;
  /** Of a name that is held as long as the worker lives. */
  lock: string;
  /** Calls gone once nobody holds the lock of that name any more. */
  watch(name: string, gone: () => void, signal: AbortSignal): void;
  /** Has the links look whether their connections live. */
  wake(): void;
}

type Hello = Extract<ToWorker, { op: 'hello' }>;

/** The connections of a worker, by whose they are. */
export class Hubs {
  private readonly hubs = new Map<string, Hub>();

  constructor(private readonly worker: Worker) {}

  /** Serves a tab until it is gone. */
  connect(port: MessagePort): void {
    port.onmessage = ({ data }: MessageEvent<ToWorker>) => {
      if (data.op === 'hello') this.hello(port, data);
    };
  }

  private hello(port: MessagePort, hello: Hello): void {
    const say = (message: ToTab): void => port.postMessage(message);
    if (hello.version !== version) return say({ op: 'gone', why: `the worker speaks version ${version}` });
    const { url, settings, who, token } = hello;
    const key = canonical([url, settings, who, token !== undefined]);
    let hub = this.hubs.get(key);
    // Where the server wants nothing of the others' connection any more, a new tab tries once more.
    if (!hub || hub.first.status.get().state === 'refused') {
      const made: Hub = new Hub(this.worker, url, settings, who, token, () => {
        if (this.hubs.get(key) === made) this.hubs.delete(key);
      });
      this.hubs.set(key, (hub = made));
    }
    const member = new Member(hub, port);
    say({ op: 'ready', lock: this.worker.lock });
    hub.add(member);
    this.worker.watch(hello.lock, () => member.end(), member.gone.signal);
  }
}

/** The connection to one server as one user, and the tabs that share it. */
class Hub {
  readonly members = new Set<Member>();
  /**
   * The first is for everything. There are more only while tabs want the same topic in ways that
   * one subscription cannot serve: another filter, or a place from which nothing is kept.
   */
  private readonly links: { link: Link; topics: Map<string, SharedTopic>; follows: Map<string, SharedFollow> }[] = [];

  constructor(
    private readonly worker: Worker,
    private readonly url: string,
    private readonly settings: Settings,
    private readonly who: string,
    private fresh: string | undefined,
    private readonly ended: () => void,
  ) {
    this.protected = fresh !== undefined;
    this.connect();
  }

  private readonly protected: boolean;

  private connect() {
    const options: ConnectOptions = { ...this.settings, share: false };
    if (this.protected) options.token = () => this.token();
    const one = { link: this.worker.makeLink(this.url, options), topics: new Map(), follows: new Map() };
    this.links.push(one);
    return one;
  }

  get first(): Link {
    return this.links[0]!.link;
  }

  add(member: Member): void {
    this.members.add(member);
    member.unwatch = this.first.status.subscribe((status) => member.status(status));
  }

  remove(member: Member): void {
    if (!this.members.delete(member) || this.members.size) return;
    for (const { link } of this.links) link.close();
    this.ended();
  }

  /** Lets a listener in where the same is there already, or opens it. Gives what ends it. */
  open({ wanted, since }: Extract<ToWorker, { op: 'open' }>, listener: Listener): () => void {
    const { topic } = wanted;
    let at: SharedTopic | undefined;
    const leave = (): void => this.find(topic, listener)?.remove(listener);
    for (const { topics } of this.links) {
      at = topics.get(topic);
      if (at?.join(wanted, since, listener)) return leave;
    }
    const one = this.links.find(({ topics }) => !topics.has(topic)) ?? this.connect();
    const opened: SharedTopic = new SharedTopic(
      one.link,
      wanted,
      () => {
        if (one.topics.get(topic) === opened) one.topics.delete(topic);
        this.trim();
      },
      () => this.merge(topic, opened),
    );
    one.topics.set(topic, opened);
    opened.add(listener);
    return leave;
  }

  private find(topic: string, listener: Listener): SharedTopic | undefined {
    return this.links.map(({ topics }) => topics.get(topic)).find((one) => one?.has(listener));
  }

  /** Brings a subscription that has caught up together with the one on an earlier connection. */
  private merge(topic: string, late: SharedTopic): void {
    for (const { topics } of this.links) {
      const early = topics.get(topic);
      if (early === late) return;
      if (early && late.moveTo(early)) return;
    }
  }

  /** Closes connections that nobody needs any more, but for the first. */
  private trim(): void {
    for (const one of this.links.slice(1)) {
      if (one.topics.size || one.follows.size) continue;
      this.links.splice(this.links.indexOf(one), 1);
      one.link.close();
    }
  }

  follow(topic: string, follower: Follower): () => void {
    const fits = this.links.find(({ follows }) => follows.get(topic)?.fits(follower) ?? true) ?? this.connect();
    let shared = fits.follows.get(topic);
    if (!shared) {
      shared = new SharedFollow(fits.link, topic, () => {
        fits.follows.delete(topic);
        this.trim();
      });
      fits.follows.set(topic, shared);
    }
    shared.add(follower);
    return () => shared.remove(follower);
  }

  /** The link that a request belongs on: who comes to be here does so where his presence is followed. */
  linkFor(frame: Frame, followers: Iterable<Follower>): Link {
    if (frame.type === 'presence' && frame.op === 'join') {
      for (const follower of followers) {
        for (const { link, follows } of this.links) {
          if (follows.get(`__presence:${String(frame.topic)}`)?.joined(follower, frame)) return link;
        }
      }
    }
    return this.first;
  }

  wake(): void {
    this.worker.wake();
  }

  cut(): void {
    for (const { link } of this.links) link.cut();
  }

  /** Asks the tabs for a token, one after the other. Who shows somebody else's does not share any more. */
  private async token(): Promise<string> {
    const { fresh } = this;
    this.fresh = undefined;
    if (fresh !== undefined) return fresh;
    let error: Error | undefined;
    for (const member of [...this.members]) {
      try {
        const { who, token } = await member.token();
        if (who === this.who && token !== undefined) return token;
        member.drop('its token is somebody else’s');
      } catch (why) {
        error = why as Error;
      }
    }
    throw error ?? new Error('no tab has a token');
  }
}

type Shown = { who: string; token?: string | undefined };

/** One tab. */
class Member {
  readonly gone = new AbortController();
  unwatch: (() => void) | undefined;
  private readonly subs = new Map<number, () => void>();
  private readonly follows = new Map<number, { follower: Follower; end: () => void }>();
  private readonly calls = new Map<number, AbortController>();
  private readonly asked = new Map<number, { done: (shown: Shown) => void; fail: (error: Error) => void }>();
  private names = 0;
  private queue: [number, Item][] = [];
  private untaken = 0;
  private sizes: number[] = [];
  private size = 0;

  constructor(
    private readonly hub: Hub,
    private readonly port: MessagePort,
  ) {
    port.onmessage = ({ data }: MessageEvent<ToWorker>) => {
      if (!this.gone.signal.aborted) this.hear(data);
    };
    // Where the browser tells it; the lock tells it everywhere.
    port.addEventListener('close', () => this.end());
  }

  status({ error, ...status }: Status): void {
    this.say({ op: 'status', status, error: error && told(error) });
  }

  /** Ends what the tab has: it is not there any more. */
  end(): void {
    if (this.gone.signal.aborted) return;
    this.gone.abort();
    this.unwatch?.();
    for (const close of this.subs.values()) close();
    for (const { end } of this.follows.values()) end();
    for (const { fail } of this.asked.values()) fail(new Error('the tab is gone'));
    this.hub.remove(this);
    this.port.close();
  }

  drop(why: string): void {
    this.say({ op: 'gone', why });
    this.end();
  }

  async token(): Promise<Shown> {
    const call = ++this.names;
    let timer: ReturnType<typeof setTimeout> | undefined;
    try {
      return await new Promise<Shown>((done, fail) => {
        this.asked.set(call, { done, fail });
        timer = setTimeout(() => fail(new Error(`no tab has told its token within ${tokenTimeout} ms`)), tokenTimeout);
        this.say({ op: 'token', call });
      });
    } finally {
      clearTimeout(timer);
      this.asked.delete(call);
    }
  }

  /** Says something, after all items so far. */
  private say(message: ToTab): void {
    this.flush();
    if (!this.gone.signal.aborted) this.port.postMessage(message);
  }

  private hear(message: ToWorker): void {
    switch (message.op) {
      case 'open': {
        const { sub } = message;
        this.subs.get(sub)?.();
        let lost = false;
        const listener: Listener = {
          take: (item, size) => {
            if (lost) return;
            if (this.untaken > maxItems || this.size > maxSize) listener.lost();
            else this.put(sub, item, size);
          },
          lost: () => {
            lost = true;
            this.subs.get(sub)?.();
            this.subs.delete(sub);
            this.say({ op: 'lost', sub });
          },
        };
        const close = this.hub.open(message, listener);
        // What it was told at once may have been too much already.
        if (lost) close();
        else this.subs.set(sub, close);
        return;
      }
      case 'close':
        this.subs.get(message.sub)?.();
        this.subs.delete(message.sub);
        return;
      case 'request':
        return void this.request(message);
      case 'abort':
        return this.calls.get(message.call)?.abort();
      case 'follow': {
        const { follow, topic, enter, exit } = message;
        const follower: Follower = { enter, exit, take: (event, data) => this.say({ op: 'live', follow, event, data }) };
        this.follows.set(follow, { follower, end: this.hub.follow(topic, follower) });
        return;
      }
      case 'unfollow':
        this.follows.get(message.follow)?.end();
        this.follows.delete(message.follow);
        return;
      case 'token':
        return this.asked.get(message.call)?.done(message);
      case 'no token':
        return this.asked.get(message.call)?.fail(untold(message.error));
      case 'taken':
        this.untaken -= message.items;
        for (const size of this.sizes.splice(0, message.items)) this.size -= size;
        return;
      case 'wake':
        return this.hub.wake();
      case 'cut':
        return this.hub.cut();
      case 'bye':
        return this.end();
    }
  }

  private async request({ call, frame, again }: Extract<ToWorker, { op: 'request' }>): Promise<void> {
    const abort = new AbortController();
    this.calls.set(call, abort);
    try {
      const link = this.hub.linkFor(frame, [...this.follows.values()].map(({ follower }) => follower));
      const answer = await link.request(frame, { again, signal: abort.signal });
      this.say({ op: 'answer', call, frame: answer });
    } catch (error) {
      if (!abort.signal.aborted) this.say({ op: 'failed', call, error: told(error) });
    } finally {
      this.calls.delete(call);
    }
  }

  /** Hands an item over, with others that come in the same moment. */
  private put(sub: number, item: Item, size: number): void {
    if (this.gone.signal.aborted) return;
    if (this.queue.push([sub, item]) === 1) queueMicrotask(() => this.flush());
    this.untaken++;
    this.sizes.push(size);
    this.size += size;
    if (item.type === 'denied') this.subs.delete(sub);
  }

  private flush(): void {
    if (!this.queue.length) return;
    const items = this.queue.splice(0);
    if (!this.gone.signal.aborted) this.port.postMessage({ op: 'items', items } satisfies ToTab);
  }
}
