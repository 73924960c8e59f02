//#region src/types.d.ts
/**
 * The public words of the client. They are those of docs/protocol.md: topic, event, seq,
 * position, id, after, gap and reset mean here what they mean there.
 */
/** Whatever JSON can say. */
type Json = null | boolean | number | string | Json[] | {
  [name: string]: Json;
};
/**
 * The data of a topic's events, by the event's name. Without one of your own every name is allowed,
 * and data is not checked. It is any, because an interface fits no index signature but that.
 */
type EventMap = {
  [event: string]: any;
};
/**
 * The events of each topic. Names may be template literals:
 *
 *     interface Topics {
 *       [topic: `room:${string}`]: RowEvents<Message>;
 *       presence: { hello: { by: string } };
 *     }
 *     const rt = connect<Topics>(url);
 */
type TopicMap = {
  [topic: string]: any;
};
/** The events of an attached table whose rows are Row, by name. */
interface RowEvents<Row> {
  created: Row;
  updated: Row;
  deleted: Partial<Row>;
  truncated: null;
  /** A row that came into the filter of the subscription. */
  entered: Row;
  /** A row that went out of the filter, or out of what the caller may see. */
  gone: null;
}
/** A condition on the data of events: the text of docs/filters.md, or values by member. */
type Filter = string | {
  [member: string]: string | number | boolean | null;
};
/** A value that can be looked at, and that tells when it becomes another one. It is a store as Svelte knows them. */
interface Readable<T> {
  /** The value of this moment. The same object as long as nothing has changed. */
  get(): T;
  /** Calls run with the value, at once and after each change, until the function that it returns is called. */
  subscribe(run: (value: T) => void): () => void;
}
/** A place to go on from: everything after it follows. */
interface Place {
  /** A seq, or, for a pattern, a position; 0 is before the first event. */
  after: number;
  /** The id of the event seen there: it proves that its history still exists. */
  id?: string;
  /** Of the snapshot that the reader began with: events that it holds are left out. */
  asOf?: string;
}
/** An event of a topic, at its place in the stream. */
type EventItem<E extends EventMap = EventMap> = { [Name in keyof E & string]: {
  type: 'event'; /** The topic's name, also when the event came through a pattern. */
  topic: string;
  event: Name; /** The row, or what was published. Not there if the event is oversize. */
  data: E[Name]; /** Of updated, entered, gone and deleted: the row's old key, and its old values where they are captured. */
  old?: Record<string, unknown>;
  seq: number;
  id: string; /** Its place in the whole log; only when it came through a pattern. */
  position?: number; /** The event is larger than the server's limit: fetch it with history over HTTP. */
  oversize?: true; /** Where to go on after this event. */
  place: Place;
} }[keyof E & string];
/** From here on every event is delivered. Comes again after each reconnect. */
interface SubscribedItem {
  type: 'subscribed';
  topic: string;
  seq: number;
  /** It goes on from a place that the client knew. */
  resumed: boolean;
}
/**
 * A part of what a topic holds, between subscribed and the first event. Rows of one table in
 * no order, or, of a topic without a table, the newest event of each key.
 */
interface SnapshotItem<E extends EventMap = EventMap> {
  type: 'snapshot';
  topic: string;
  /** With its schema; not there without rows. */
  table?: string;
  rows: Json[];
  events: EventItem<E>[];
  /** Keys of rows that are larger than the server's limit. */
  oversize: Json[];
  /** It begins, or begins anew: what the app holds of the topic is to be thrown away. */
  first: boolean;
  /** It is complete: events follow. */
  last: boolean;
  /** Where the events follow; with the last part. */
  place?: Place;
}
/** Events after after and before tail are trimmed away. Of a pattern some of them may still follow. */
interface GapItem {
  type: 'gap';
  topic: string;
  after: number;
  tail: number;
  head: number;
}
/** The history that the client saw exists no longer; the stream goes on after head. */
interface ResetItem {
  type: 'reset';
  topic: string;
  head: number;
}
/** The server ended the subscription, or never began it. reason is one of docs/protocol.md's, or an error's code. */
interface DeniedItem {
  type: 'denied';
  topic: string;
  reason: string;
  message?: string;
}
/** Everything that a topic tells, in order. */
type Item<E extends EventMap = EventMap> = EventItem<E> | SubscribedItem | SnapshotItem<E> | GapItem | ResetItem | DeniedItem;
/** An event of that name. */
type EventOf<E extends EventMap, Name extends keyof E & string> = EventItem<{ [N in Name]: E[N] }>;
/** What the handlers of notices get, by what they listen to. */
interface Notices<E extends EventMap = EventMap> {
  /** Any event, whatever its name: also one whose name is that of a notice. */
  event: EventItem<E>;
  subscribed: SubscribedItem;
  snapshot: SnapshotItem<E>;
  gap: GapItem;
  reset: ResetItem;
  denied: DeniedItem;
}
/** What a handler of that name gets: a notice, or an event of that name. */
type Heard<E extends EventMap, Name extends string> = Name extends keyof Notices ? Notices<E>[Name] : Name extends keyof E & string ? EventOf<E, Name> : never;
/** How a subscription begins, and what it selects. */
interface TopicOptions {
  /** Everything after this place; 0 is everything. Not there: what follows from now on. */
  after?: number | Place;
  /**
   * Begin with what the topic holds now. It comes anew after a gap or a reset, so that the app
   * is never left with half of the truth. Not together with after, nor for a pattern.
   */
  snapshot?: boolean;
  filter?: Filter;
}
/** What history gives: events in order, and where the topic's kept ones begin and end. */
interface Page<E extends EventMap = EventMap> {
  events: EventItem<E>[];
  tail: number;
  head: number;
  /** What to ask after next time. It is head when there is no more. */
  next: number;
}
/** Who is here, by key. Each user is there once, over all tabs and servers. */
interface Presence<User = Record<string, unknown>> extends Readable<ReadonlyMap<string, User>> {
  /** Is here from now on, also after reconnects. data says who it is, where no token does. Gives the user's key. */
  join(data?: Record<string, Json>): Promise<string>;
  /** Is not here any more; the others are told at once. */
  leave(): Promise<void>;
  /** Asks how many are here, without being told of changes. */
  count(): Promise<number>;
}
/** A cursor of somebody else. */
interface CursorOf<Data = Json, User = Record<string, unknown>> {
  key: string;
  user?: User;
  data: Data;
}
/** The cursors of the others, by session key. */
interface Cursors<Data = Json, User = Record<string, unknown>> extends Readable<ReadonlyMap<string, CursorOf<Data, User>>> {
  /** Moves this session's own. May be called as often as a mouse moves; only the newest counts. Lost while there is no connection. */
  move(data: Data): void;
  leave(): void;
}
/**
 * One topic, or all that a pattern selects. It subscribes when somebody listens to it first
 * (on, once, for await), and ends that when nobody does any more; whoever listens again goes on
 * where it was.
 */
interface Topic<E extends EventMap = EventMap> extends AsyncIterable<Item<E>> {
  readonly name: string;
  /** What it was opened with. */
  readonly options: Readonly<TopicOptions>;
  /** Of the connection that carries it. */
  readonly status: Readable<Status>;
  /** Calls a handler, in order, for each event or notice of that name, until the function that it returns is called. */
  on<Name extends (keyof E & string) | keyof Notices>(name: Name, handler: (heard: Heard<E, Name>) => void): () => void;
  /** The place after the last item that was handed over; undefined before the first answer. */
  readonly place: Place | undefined;
  /** Only the events, without the notices. */
  events(): AsyncIterableIterator<EventItem<E>>;
  /**
   * Adds an event, and gives its id once it is committed. It is sent again with the same key
   * after a connection that broke, so that it is there exactly once. Fails with RealtimeError.
   */
  publish<Name extends keyof E & string>(event: Name, data: E[Name], options?: {
    key?: string;
    signal?: AbortSignal;
  }): Promise<{
    id: string;
  }>;
  /**
   * Asks for the snapshot anew, for all who listen; it comes with first. Does nothing without the
   * option snapshot, and while nobody listens whoever listens next begins with it.
   */
  refresh(): void;
  history(options?: {
    after?: number;
    limit?: number;
    filter?: Filter;
    signal?: AbortSignal;
  }): Promise<Page<E>>;
  readonly presence: Presence;
  readonly cursors: Cursors;
  /** Ends the subscription, presence and cursors; iterations end. */
  close(): void;
}
/** What the connection is doing. */
type State = /** Not connected yet, or connecting again. */'connecting' | 'online' /** The browser says that there is no network: waiting for it. */ | 'offline' /** The server does not want this client; it does not come back. See error. */ | 'refused' /** close was called. */ | 'closed';
interface Status {
  state: State;
  transport?: 'websocket' | 'sse' | 'shared';
  /** Why the last connection ended, or could not be made. */
  error?: Error;
  /** When it will be tried again, in milliseconds since 1970. */
  retryAt?: number;
  /** Backends of the server that are degraded now: redis, postgres. */
  degraded: readonly string[];
}
/** Keeps the places of topics, so that a page that is loaded again resumes. See pgcast/storage. */
interface PlaceStorage {
  get(key: string): Promise<Place | undefined>;
  set(key: string, place: Place): Promise<void>;
  delete(key: string): Promise<void>;
}
interface ConnectOptions {
  /**
   * Says who this is: a JWT or an API key, or a function that gives one. It is asked before each
   * connection, and again before the token expires.
   */
  token?: string | (() => string | undefined | Promise<string | undefined>);
  /** Who this is where no token says so: what presence and cursors show to others. */
  user?: Record<string, Json>;
  /** Default auto: WebSocket, and, where that cannot be had, SSE and HTTP. */
  transport?: 'auto' | 'websocket' | 'sse';
  /**
   * Whether tabs of the same origin and the same user share one connection. Default true, where
   * the browser has SharedWorker and Web Locks; else each has its own.
   */
  share?: boolean;
  /** Where the places of topics without snapshot are kept; default nowhere. */
  storage?: PlaceStorage;
  /** Pause before the first attempt to reconnect, doubled with each, in milliseconds; default 100. */
  minBackoff?: number;
  /** Longest pause, in milliseconds; default 5000. */
  maxBackoff?: number;
  /** How long the server may be silent, in milliseconds; it says something every 50 s. Default 75 000. */
  silence?: number;
  /** For one attempt to connect, in milliseconds; default 10 000. */
  connectTimeout?: number;
  /** Items that an iteration may have waiting before its topic stops listening and resumes later; default 1000. */
  buffer?: number;
  /** Where there is no global one, or another is wanted. */
  WebSocket?: typeof WebSocket;
  fetch?: typeof fetch;
}
/** The connection to one server. */
interface Realtime<T extends TopicMap = TopicMap> {
  readonly status: Readable<Status>;
  /**
   * The topic or pattern of that name: the same object for the same name. Options count for the
   * first time; other ones later are an error, close the topic first.
   */
  topic<Name extends keyof T & string>(name: Name, options?: TopicOptions): Topic<T[Name]>;
  /** Drops the connection as a failing network would; it comes back and resumes. For tests and demonstrations. */
  cut(): void;
  close(): void;
}
//#endregion
export { State as C, TopicMap as D, Topic as E, TopicOptions as O, SnapshotItem as S, SubscribedItem as T, Presence as _, EventItem as a, ResetItem as b, Filter as c, Item as d, Json as f, PlaceStorage as g, Place as h, DeniedItem as i, GapItem as l, Page as m, CursorOf as n, EventMap as o, Notices as p, Cursors as r, EventOf as s, ConnectOptions as t, Heard as u, Readable as v, Status as w, RowEvents as x, Realtime as y };