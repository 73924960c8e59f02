// The steps of the protocol at which a test cuts, and chance that can be had again.
import type { How, Passing, Proxy } from './proxy.js';

type Where = 'before' | 'within' | 'after';

/** Looks at what passes on one connection, and says where to cut once its step is there. */
type Step = (seen: Passing, so: Seen) => Where | undefined;

/** What has passed already, by connection. */
interface Seen {
  subscribed: Set<number>;
}

const down = (seen: Passing) => (seen.up ? undefined : seen.frame);
const up = (seen: Passing) => (seen.up ? seen.frame : undefined);
const isEvent = (frame: Record<string, any> | undefined) => !!frame && (frame.type === undefined || frame.type === 'batch');

/** Steps of a WebSocket, by name. Those of connecting need a connection to be made anew. */
export const connecting: Record<string, Step> = {
  'after TCP accept': (seen) => (seen.up && seen.kind === 'head' ? 'before' : undefined),
  'mid-handshake': (seen) => (!seen.up && seen.kind === 'head' ? 'within' : undefined),
  'before welcome': (seen) => (down(seen)?.type === 'welcome' ? 'before' : undefined),
  'after welcome': (seen) => (down(seen)?.type === 'welcome' ? 'after' : undefined),
  'before hello': (seen) => (up(seen)?.type === 'hello' ? 'before' : undefined),
  'within hello': (seen) => (up(seen)?.type === 'hello' ? 'within' : undefined),
  'after hello': (seen) => (up(seen)?.type === 'hello' ? 'after' : undefined),
  'before subscribe': (seen) => (up(seen)?.type?.startsWith('subscribe') ? 'before' : undefined),
  'between subscribe and subscribed': (seen) => (up(seen)?.type?.startsWith('subscribe') ? 'after' : undefined),
  'before subscribed': (seen) => (down(seen)?.type === 'subscribed' ? 'before' : undefined),
  'after subscribed': (seen) => (down(seen)?.type === 'subscribed' ? 'after' : undefined),
  'between subscribed and the first event': (seen, so) =>
    isEvent(down(seen)) && so.subscribed.has(seen.connection) ? 'before' : undefined,
  'within the first event': (seen, so) => (isEvent(down(seen)) && so.subscribed.has(seen.connection) ? 'within' : undefined),
};

/** Steps of a snapshot, which is asked for once only. */
export const snapshotting: Record<string, Step> = {
  'before a snapshot': (seen) => (down(seen)?.type === 'snapshot' ? 'before' : undefined),
  'mid-snapshot': (seen) => (down(seen)?.type === 'snapshot' && down(seen)?.more ? 'after' : undefined),
  'within a part of a snapshot': (seen) => (down(seen)?.type === 'snapshot' && down(seen)?.more ? 'within' : undefined),
  'before the last part of a snapshot': (seen) => (down(seen)?.type === 'snapshot' && !down(seen)?.more ? 'before' : undefined),
  'after the last part of a snapshot': (seen) => (down(seen)?.type === 'snapshot' && !down(seen)?.more ? 'after' : undefined),
};

/** Steps of a connection that is there, under a writer. */
export const streaming: Record<string, Step> = {
  'before an event': (seen) => (isEvent(down(seen)) ? 'before' : undefined),
  'in the middle of a frame': (seen) => (isEvent(down(seen)) ? 'within' : undefined),
  'after an event': (seen) => (isEvent(down(seen)) ? 'after' : undefined),
  'before a publish': (seen) => (up(seen)?.type === 'publish' ? 'before' : undefined),
  'within a publish': (seen) => (up(seen)?.type === 'publish' ? 'within' : undefined),
  'between publish and its answer': (seen) => (up(seen)?.type === 'publish' ? 'after' : undefined),
  'before published': (seen) => (down(seen)?.type === 'published' ? 'before' : undefined),
  'after published': (seen) => (down(seen)?.type === 'published' ? 'after' : undefined),
};

/** Steps of a stream of Server-Sent Events, and of publishing over HTTP. */
export const http: Record<string, Step> = {
  'before the request for a stream': (seen) => (stream(seen) ? 'before' : undefined),
  'after the request for a stream': (seen) => (stream(seen) ? 'after' : undefined),
  'within the head of a stream': (seen) => (events(seen) && seen.kind === 'head' ? 'within' : undefined),
  'after the head of a stream': (seen) => (events(seen) && seen.kind === 'head' ? 'after' : undefined),
  'after subscribed': (seen) => (body(seen, 'event: subscribed') ? 'after' : undefined),
  'before a part of a stream': (seen) => (body(seen, 'data: ') ? 'before' : undefined),
  'within a part of a stream': (seen) => (body(seen, 'data: ') ? 'within' : undefined),
  'after a part of a stream': (seen) => (body(seen, 'data: ') ? 'after' : undefined),
  'before a publish': (seen) => (post(seen) ? 'before' : undefined),
  'after a publish': (seen) => (post(seen) ? 'after' : undefined),
  'before published': (seen) => (!seen.up && seen.text.startsWith('HTTP/1.1 201') ? 'before' : undefined),
  'within published': (seen) => (!seen.up && seen.text.startsWith('HTTP/1.1 201') ? 'within' : undefined),
};

const stream = (seen: Passing) => seen.up && seen.kind === 'head' && /^GET \S*\/sse/.test(seen.text);
const post = (seen: Passing) => seen.up && seen.kind === 'head' && seen.text.startsWith('POST ');
const events = (seen: Passing) => !seen.up && /\r\ncontent-type: text\/event-stream/i.test(seen.text);
const body = (seen: Passing, has: string) => !seen.up && seen.kind === 'body' && seen.text.includes(has);

/**
 * Cuts a proxy's next connection that comes to a step, once. The promise is for that; false says
 * that it did not come within some milliseconds.
 */
export function cutAt(proxy: Proxy, step: Step, how: How, within: number): Promise<boolean> {
  return new Promise((done) => {
    const so: Seen = { subscribed: new Set() };
    const finish = (cut: boolean) => {
      clearTimeout(timer);
      proxy.rule = undefined;
      done(cut);
    };
    const timer = setTimeout(finish, within, false);
    proxy.rule = (seen) => {
      const where = step(seen, so);
      if (down(seen)?.type === 'subscribed') so.subscribed.add(seen.connection);
      if (!where) return undefined;
      finish(true);
      return { cut: how, where };
    };
  });
}

/** Chance from a seed (mulberry32), so that a run can be had again. */
export class Random {
  constructor(private state: number) {}

  /** From 0 up to 1. */
  next(): number {
    this.state = (this.state + 0x6d2b79f5) | 0;
    let t = Math.imul(this.state ^ (this.state >>> 15), 1 | this.state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  }

  /** A whole number from 0 up to n. */
  below(n: number): number {
    return Math.floor(this.next() * n);
  }

  one<T>(of: readonly T[]): T {
    return of[this.below(of.length)]!;
  }

  chance(p: number): boolean {
    return this.next() < p;
  }
}

/** The seed of this run: PGCAST_TEST_SEED, or another one each time. It is printed, so that a failure can be had again. */
export function seed(): number {
  const given = Number(process.env.PGCAST_TEST_SEED ?? '');
  const value = given > 0 ? given : Math.floor(Math.random() * 2 ** 31) + 1;
  console.log(`seed ${value} (PGCAST_TEST_SEED=${value} repeats it)`);
  return value;
}
