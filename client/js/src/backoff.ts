/** The longest pause that a server can ask for, in milliseconds. */
export const maxHint = 60_000;

/**
 * Pauses that double, each cut by a random part, so that the clients of a server that went
 * away do not come back all at once. In milliseconds.
 */
export class Backoff {
  #next = 0;

  constructor(
    readonly min: number,
    readonly max: number,
    readonly random: () => number = Math.random,
  ) {}

  reset(): void {
    this.#next = 0;
  }

  /** The next pause; slow: as long as they ever are. */
  pause(slow = false): number {
    const next = Math.min(Math.max(slow ? this.max : this.#next, this.min), this.max);
    this.#next = next * 2;
    return Math.round(next / 2 + this.random() * (next / 2));
  }
}
