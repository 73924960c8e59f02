/** The longest pause that a server can ask for, in milliseconds. */
export const maxHint = 60_000;

export interface Backoff {
  /** The next pause; slow: as long as they ever are. */
  pause(slow?: boolean): number;
  reset(): void;
}

/**
 * Pauses from min to max that double, each cut by a random part, so that the clients of a server
 * that went away do not come back all at once. In milliseconds.
 */
export function backoff(min: number, max: number, random = Math.random): Backoff {
  let next = min;
  return {
    pause(slow) {
      const now = slow ? max : Math.min(next, max);
      next = now * 2;
      return Math.round((now / 2) * (1 + random()));
    },
    reset() {
      next = min;
    },
  };
}
