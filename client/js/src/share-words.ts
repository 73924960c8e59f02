import { RealtimeError } from './error.js';
import type { Frame, Wanted } from './link.js';
import type { ConnectOptions, Item, Json, Status } from './types.js';

/**
 * What a tab and the worker that has the connection say to each other. Whoever changes it counts
 * this up: a worker may be older than a page that was loaded after the server's new version.
 */
export const version = 1;

/** The options that a connection has as a whole; tabs in which they differ do not share. */
export type Settings = Pick<
  ConnectOptions,
  'transport' | 'user' | 'minBackoff' | 'maxBackoff' | 'silence' | 'connectTimeout'
>;

/** What a tab says. Numbers are names that the tab gives. */
export type ToWorker =
  | { op: 'hello'; version: number; lock: string; url: string; settings: Settings; who: string; token?: string | undefined }
  /** since: the newest seq that the tab has of the topic; an older snapshot would lead it back. */
  | { op: 'open'; sub: number; wanted: Wanted; since?: number | undefined }
  | { op: 'close'; sub: number }
  | { op: 'request'; call: number; frame: Frame; again: boolean }
  | { op: 'abort'; call: number }
  | { op: 'follow'; follow: number; topic: string; enter: Frame; exit: Frame }
  | { op: 'unfollow'; follow: number }
  | { op: 'token'; call: number; who: string; token?: string | undefined }
  | { op: 'no token'; call: number; error: Told }
  /** So many items have been handed over since the last time. */
  | { op: 'taken'; items: number }
  /** The device woke up, or has a network again: see whether the connection lives. */
  | { op: 'wake' }
  | { op: 'cut' }
  | { op: 'bye' };

/** What the worker says. */
export type ToTab =
  | { op: 'ready'; lock: string }
  /** It cannot serve this tab, or not any more. */
  | { op: 'gone'; why: string }
  | { op: 'status'; status: Omit<Status, 'error'>; error?: Told | undefined }
  | { op: 'items'; items: [sub: number, item: Item][] }
  /** The subscription has ended without its app's doing, after the items so far: to be opened again where it is. */
  | { op: 'lost'; sub: number }
  | { op: 'answer'; call: number; frame: Frame }
  | { op: 'failed'; call: number; error: Told }
  | { op: 'live'; follow: number; event: string; data: Json }
  | { op: 'token'; call: number };

/** An error, as a port can carry it. */
export interface Told {
  code?: string | undefined;
  message: string;
  retryAfter?: number | undefined;
}

export function told(error: unknown): Told {
  const { code, message, retryAfter } = error as Partial<RealtimeError>;
  return { code, message: message ?? String(error), retryAfter };
}

export function untold({ code, message, retryAfter }: Told): Error {
  return code ? new RealtimeError(code, message, retryAfter) : new Error(message);
}

/** The same text for the same JSON, whatever the order of its members. */
export function canonical(value: unknown): string {
  return (
    JSON.stringify(value, (_, each: unknown) =>
      each && typeof each === 'object' && !Array.isArray(each)
        ? Object.fromEntries(Object.entries(each).sort(([a], [b]) => (a < b ? -1 : 1)))
        : each,
    ) ?? ''
  );
}

/**
 * Who a token names, and with which rights: all its claims but those that change whenever it is
 * issued anew. Of what is no JWT nothing is known but itself. Nobody trusts it: the server reads
 * the token; this only tells tabs apart.
 */
export function identity(token: string | undefined): string {
  const body = token?.split('.')[1];
  if (token && body) {
    try {
      const bytes = Uint8Array.from(atob(body.replace(/-/g, '+').replace(/_/g, '/')), (c) => c.charCodeAt(0));
      const { exp, iat, nbf, jti, ...claims } = JSON.parse(new TextDecoder().decode(bytes)) as Record<string, unknown>;
      return canonical(claims);
    } catch {
      // no JWT
    }
  }
  return token ?? '';
}
