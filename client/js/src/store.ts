import type { Readable } from './types.js';

// The types of Node do not know it; browsers and workers have it.
declare const reportError: ((error: unknown) => void) | undefined;

/** Tells of an error that an app's callback threw, without breaking what called it. */
export function report(error: unknown): void {
  // Deno has reportError too, but ends the program with it.
  if (typeof reportError === 'function' && !('Deno' in globalThis)) reportError(error);
  else console.error(error);
}

/** Calls an app's callback; what it throws is reported. */
export function safely<T>(run: (value: T) => unknown, value: T): void {
  try {
    run(value);
  } catch (error) {
    report(error);
  }
}

export interface Store<T> extends Readable<T> {
  set(value: T): void;
}

/** A value that can be set; begin runs when somebody subscribes first, what it gives when nobody does any more. */
export function storeOf<T>(value: T, begin?: () => () => void): Store<T> {
  const runs = new Set<[(value: T) => void]>(); // one of each subscribe, also of the same function
  let end: (() => void) | undefined;
  return {
    get: () => value,
    set(to) {
      if (to === value) return;
      value = to;
      for (const [run] of [...runs]) safely(run, to);
    },
    subscribe(run) {
      const entry: [typeof run] = [run];
      runs.add(entry);
      if (runs.size === 1) end = begin?.();
      safely(run, value);
      return () => {
        if (runs.delete(entry) && !runs.size) end?.();
      };
    },
  };
}
