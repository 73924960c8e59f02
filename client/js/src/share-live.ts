import type { Frame, Link } from './link.js';
import { canonical } from './share-words.js';
import type { Json } from './types.js';

/** One tab that follows live state. */
export interface Follower {
  enter: Frame;
  exit: Frame;
  take(event: string, data: Json): void;
}

type Users = Record<string, Json>;

/**
 * What several tabs follow of one topic's live state, over one session: it is here as long as one
 * of them is. A tab that comes later is told the state of that moment.
 */
export class SharedFollow {
  private readonly followers = new Set<Follower>();
  /** The one whose frames are used: of somebody who is here, if anybody is. */
  private leader: Follower | undefined;
  private end: (() => void) | undefined;
  private state: Users | undefined;

  constructor(
    private readonly link: Link,
    private readonly topic: string,
    private readonly ended: () => void,
  ) {}

  /** Whether the session would be here as the same user for both. Looking on adds nothing to being here. */
  fits({ enter }: Follower): boolean {
    return !joins(enter) || [...this.followers].every((other) => !joins(other.enter) || canonical(other.enter) === canonical(enter));
  }

  add(follower: Follower): void {
    this.followers.add(follower);
    if (!this.leader || (joins(follower.enter) && !joins(this.leader.enter))) return this.lead(follower);
    if (this.state) follower.take('presence_state', this.state);
  }

  /** Whether it is here for this one; then it is so as frame says from now on, also after reconnects. */
  joined(follower: Follower, frame: Frame): boolean {
    if (!this.followers.has(follower) || !joins(follower.enter)) return false;
    for (const { enter } of this.followers) if (joins(enter)) Object.assign(enter, { data: undefined }, frame);
    return true;
  }

  remove(follower: Follower): void {
    if (!this.followers.delete(follower)) return;
    if (follower !== this.leader) return;
    const [next] = [...this.followers].sort((a, b) => Number(joins(b.enter)) - Number(joins(a.enter)));
    if (next && canonical(next.enter) === canonical(follower.enter)) this.leader = next;
    else if (next) this.lead(next);
    else {
      this.end?.();
      this.ended();
    }
  }

  private lead(follower: Follower): void {
    this.end?.();
    this.leader = follower;
    this.end = this.link.follow(this.topic, follower.enter, follower.exit, (event, data) => this.take(event, data));
  }

  private take(event: string, data: Json): void {
    if (event === 'presence_state') this.state = { ...(data as Users) };
    else if (event === 'presence_diff' && this.state) {
      const { joins: come = {}, leaves: gone = {} } = data as { joins?: Users; leaves?: Users };
      for (const key of Object.keys(gone)) delete this.state[key];
      Object.assign(this.state, come);
    } else if (event === 'denied') this.state = undefined;
    for (const follower of [...this.followers]) follower.take(event, data);
  }
}

const joins = (frame: Frame): boolean => frame.op === 'join';
