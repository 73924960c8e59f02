import type { Call, Dial, Wire } from './dial.js';
import type { Asked } from './frames.js';
import type { Common } from './lane.js';
import type { Frame } from './link.js';
import { Stream, type Mark } from './stream.js';
import type { Filter } from './types.js';

// Loaded where there is no WebSocket to be had: it answers the frames of docs/protocol.md by what
// docs/http.md offers, so that nobody else has to know.

/** How often somebody who watches presence asks who is here, in milliseconds. */
const askEvery = 10_000;
/** How often it is said that all is well while no stream is open, in milliseconds. */
const beatEvery = 25_000;

/** The address of HTTP beside that of a WebSocket, without a slash at its end. */
export function httpBase(url: URL): string {
  const base = new URL(url);
  base.protocol = base.protocol.replace('ws', 'http');
  base.pathname = base.pathname.replace(/\/?(ws)?\/?$/, '');
  base.search = '';
  return base.href.replace(/\/$/, '');
}

/**
 * What to try instead of a WebSocket, or undefined: that, if there is one. A server that is away is not a WebSocket that is
 * blocked: HTTP must have worked before the newest attempt that failed.
 */
export async function instead(common: Common, webSocket: boolean): Promise<Dial | undefined> {
  const { options, url, proven, failures, reachable } = common;
  if (options.transport === 'sse' || proven || !webSocket || (failures > 1 && reachable)) return (call) => new HTTPWire(call);
  common.reachable = await answers(options.fetch ?? fetch, httpBase(url));
  return undefined;
}

/** Whether a server answers at all. */
const answers = (get: typeof fetch, base: string): Promise<boolean> =>
  get(`${base}/healthz`, { mode: 'no-cors', cache: 'no-store' }).then(
    () => true,
    () => false,
  );

class HTTPWire implements Wire {
  readonly base: string;
  readonly over = new AbortController();
  readonly #get: typeof fetch;
  readonly #headers: Record<string, string>;
  #streams: Stream[] = [];
  #opening: ReturnType<typeof setTimeout> | undefined;
  readonly #polls = new Map<string, ReturnType<typeof setInterval>>();
  readonly #beat: ReturnType<typeof setInterval>;
  #published: Promise<void> = Promise.resolve(); // the newest of those that are on their way

  constructor(readonly call: Call) {
    this.base = httpBase(call.url);
    const get = call.options.fetch ?? fetch;
    this.#get = (...args) => get(...args);
    const { token } = call.hello;
    this.#headers = token ? { Authorization: `Bearer ${token as string}` } : {};
    this.#beat = setInterval(() => this.#streams.length || this.tell({ type: 'hb' }), beatEvery);
    void this.#begin(!!token);
  }

  /** Finds out whether the server is there, and knows us. */
  async #begin(known: boolean): Promise<void> {
    if (!known) {
      if (!(await answers(this.#get, this.base))) return this.end(0, `${this.base} cannot be reached`);
    } else {
      // Where nobody is asked who he is, this is not found.
      const response = await this.fetch('/tickets', { method: 'POST' }).catch(() => undefined);
      if (!response) return this.end(0, `${this.base} cannot be reached`);
      if (!response.ok && response.status !== 404) return this.refused(response);
      await response.body?.cancel();
    }
    if (this.over.signal.aborted) return;
    this.call.open();
    this.tell({ type: 'welcome' });
  }

  fetch(path: string, init: RequestInit = {}): Promise<Response> {
    const headers = { ...this.#headers, ...(init.headers as Record<string, string>) };
    return this.#get(this.base + path, { cache: 'no-store', signal: this.over.signal, ...init, headers });
  }

  tell(frame: Frame): void {
    if (!this.over.signal.aborted) this.call.frame(frame);
  }

  /** Ends the connection by what an answer says. */
  async refused(response: Response): Promise<void> {
    const { status } = response;
    const code = status === 401 ? 4401 : status === 403 ? 4403 : status === 429 ? 4429 : 1013;
    this.end(code, (await problem(response)).message);
  }

  end(code: number, reason: string): void {
    if (this.over.signal.aborted) return;
    this.close();
    this.call.closed(code, reason);
  }

  close(): void {
    this.over.abort();
    clearTimeout(this.#opening);
    clearInterval(this.#beat);
    for (const poll of this.#polls.values()) clearInterval(poll);
    for (const stream of this.#streams) stream.close();
  }

  send(frame: Frame): void {
    const topic = frame.topic as string;
    switch (frame.type) {
      case 'subscribe':
        return this.#subscribe([frame as unknown as Asked], frame.ref);
      case 'subscribe-batch':
        return this.#subscribe(frame.topics as (string | Asked)[], frame.ref);
      case 'unsubscribe':
        if (frame.ref) return this.#probe();
        return this.#remove(topic);
      case 'publish':
        // One after the other, so that they are in the order of the calls.
        this.#published = this.#published.then(() => this.#publish(frame));
        return;
      case 'history': {
        const { after = 0, limit, filter } = frame as { after?: number; limit?: number; filter?: Asked['filter'] };
        const query = new URLSearchParams({ after: `${after}`, ...(limit && { limit: `${limit}` }), ...(filter && { filter: text(filter) }) });
        return void this.#ask(frame, `/events?${query}`, (answer) => ({ ...answer, type: 'history', topic }));
      }
      case 'presence':
        return this.#presence(frame, topic);
    }
    this.#unsupported(frame);
  }

  #unsupported({ ref, type, op }: Frame): void {
    const what = type === 'presence' ? `presence ${op as string}` : (type as string);
    this.tell({
      type: 'error',
      ...(ref ? { ref } : {}),
      code: 'unsupported',
      message: `${what} needs a WebSocket, and this connection is over SSE and HTTP`,
    });
  }

  #presence(frame: Frame, topic: string): void {
    const poll = this.#polls.get(topic);
    switch (frame.op) {
      case 'list':
      case 'count':
        return void this.#ask(frame, frame.op === 'count' ? '/presence?count' : '/presence', (data) => ({ type: 'presence', topic, op: frame.op, data }));
      case 'sync': {
        const ask = (): void =>
          void this.#ask({ topic }, '/presence', ({ users }) => ({ topic: `__presence:${topic}`, event: 'presence_state', data: users }));
        if (!poll) this.#polls.set(topic, setInterval(ask, askEvery));
        return ask();
      }
      case 'unsync':
        clearInterval(poll);
        this.#polls.delete(topic);
        return;
      default:
        // Without a ref nobody waits: it is said again with each connection.
        if (frame.ref) this.#unsupported(frame);
    }
  }

  /** Asks for what is below a topic, and answers a frame with it. */
  async #ask(frame: Frame, path: string, answer: (body: Record<string, unknown>) => Frame, init?: RequestInit): Promise<void> {
    const ref = frame.ref ? { ref: frame.ref } : {};
    try {
      const response = await this.fetch(`/topics/${encodeURIComponent(frame.topic as string)}${path}`, init);
      if (response.ok) return this.tell({ ...answer((await response.json()) as Record<string, unknown>), ...ref });
      const { code, message, retry_after } = await problem(response);
      this.tell({ type: 'error', ...ref, code, message, ...(retry_after ? { retry_after } : {}) });
    } catch (error) {
      // The network: in the next connection it is asked again.
      this.end(0, (error as Error).message);
    }
  }

  async #publish(frame: Frame): Promise<void> {
    const { event, key, data } = frame as { event?: string; key?: string; data?: unknown };
    if (/[^ -~]/.test(`${event}${key}`)) {
      return this.tell({ type: 'error', ref: frame.ref, code: 'invalid_event', message: 'over HTTP, names of events and keys are printable ASCII' });
    }
    const headers = { 'Content-Type': 'application/json', 'Pgcast-Event': event!, 'Idempotency-Key': key! };
    await this.#ask(frame, '/events', ({ id }) => ({ type: 'published', id }), { method: 'POST', headers, body: JSON.stringify(data ?? null) });
  }

  #subscribe(items: (string | Asked)[], ref: unknown): void {
    for (const item of items) {
      const asked = typeof item === 'string' ? { topic: item } : item;
      this.#remove(asked.topic);
      const mark: Mark = { topic: asked.topic, ref, place: placeOf(asked), answered: false };
      // Of one stream all begin with a snapshot, or none, and all have one filter.
      const filter = asked.filter && text(asked.filter);
      const snapshot = asked.snapshot === true;
      let stream = this.#streams.find((one) => one.filter === filter && one.snapshot === snapshot && one.takes(mark));
      if (!stream) this.#streams.push((stream = new Stream(this, filter, snapshot)));
      stream.marks.push(mark);
      stream.changed = true;
    }
    this.openSoon();
  }

  #remove(topic: string): void {
    for (const stream of this.#streams) if (stream.remove(topic)) this.openSoon();
  }

  /** Opens what has changed, once for all that changes at once. */
  openSoon(): void {
    this.#opening ??= setTimeout(() => {
      this.#opening = undefined;
      this.#streams = this.#streams.filter((stream) => stream.marks.length || stream.close());
      for (const stream of this.#streams) if (stream.changed) stream.open();
    }, 2);
  }

  /** Finds out whether the server is there: what was open may not tell. */
  #probe(): void {
    for (const stream of this.#streams) stream.changed = true;
    this.openSoon();
    void answers(this.#get, this.base).then((there) => there && this.tell({ type: 'hb' }));
  }
}

/** A place as Last-Event-ID has it. */
function placeOf({ after, id, snapshot }: Asked): string {
  if (after === undefined) return '-';
  const asOf = typeof snapshot === 'string' ? `@${snapshot.replaceAll(',', '_')}` : '';
  return after + (id ? `:${id}` : '') + asOf;
}

/** A filter as a URL has it: values by member are written out as a condition, see docs/filters.md. */
function text(filter: Filter): string {
  if (typeof filter === 'string') return filter;
  const quoted = (value: string, quote: string): string => quote + value.replaceAll(quote, quote + quote) + quote;
  return Object.entries(filter)
    .map(([name, value]) => {
      if (value === null) return `${quoted(name, '"')} is null`;
      return `${quoted(name, '"')} = ${typeof value === 'string' ? quoted(value, "'") : value}`;
    })
    .join(' and ');
}

interface Problem {
  code: string;
  message: string;
  hint?: string;
  retry_after?: number;
}

/** What an answer says went wrong. */
export async function problem(response: Response): Promise<Problem> {
  const body = (await response.json().catch(() => ({}))) as { error?: Problem };
  const { error } = body;
  if (error) return { ...error, message: error.message + (error.hint ? ` (${error.hint})` : '') };
  return { code: response.status < 500 ? 'invalid' : 'unavailable', message: `the server answered with status ${response.status}` };
}
