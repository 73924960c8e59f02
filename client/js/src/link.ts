import type { Filter, Item, Json, Place, Readable, Status } from './types.js';

/**
 * Link is the seam between topics and what carries them: a connection of one's own (WebSocket,
 * or SSE and HTTP), or a port to a worker that shares one between tabs.
 *
 * A link promises of each subscription what docs/protocol.md asks of a client: its items are in
 * order, each event once, holes are filled before the next event is handed over, and after
 * whatever cut it off it goes on where it was.
 */
export interface Link {
  readonly status: Readable<Status>;
  /** Begins a subscription. There is at most one for a topic at a time: see Topic. */
  open(wanted: Wanted, take: (item: Item) => void): Subscription;
  /** Sends a frame with a ref of its own and gives its answer; again: it may be sent again after the connection broke. */
  request(frame: Frame, options?: { again?: boolean | undefined; signal?: AbortSignal | undefined }): Promise<Frame>;
  /** Sends a frame that has no answer; it is lost while there is no connection. */
  send(frame: Frame): void;
  /**
   * Follows live state on a topic of the server's own (__presence:…, __cursor:…). enter is sent now
   * and after each reconnect, exit when nobody follows any more. Gives the function that ends it.
   */
  follow(topic: string, enter: Frame, exit: Frame, take: (event: string, data: Json) => void): () => void;
  cut(): void;
  close(): void;
}

export interface Wanted {
  topic: string;
  place?: Place | undefined;
  snapshot?: boolean | undefined;
  filter?: Filter | undefined;
}

export interface Subscription {
  /** No item is handed over after close. */
  close(): void;
}

/** A frame of the protocol, as JSON has it. */
export type Frame = { type?: string; [member: string]: unknown };
