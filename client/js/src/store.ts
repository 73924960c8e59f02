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
export function safely<A extends unknown[]>(run: (...args: A) => unknown, ...args: A): void {
  try {
    run(...args);
  } catch (error) {
    report(error);
  }
}

/** A value that can be set; begin runs when somebody subscribes first, what it gives when nobody does any more. */
export class Store<T> implements Readable<T> {
  #value: T;
  #runs = new Set<{ run: (value: T) => void }>();
  #begin: (() => () => void) | undefined;
  #end: (() => void) | undefined;

  constructor(value: T, begin?: () => () => void) {
    this.#value = value;
    this.#begin = begin;
  }

  get(): T {
    return this.#value;
  }

  set(value: T): void {
    if (value === this.#value) return;
    this.#value = value;
    for (const { run } of [...this.#runs]) safely(run, value);
  }

  subscribe(run: (value: T) => void): () => void {
    const entry = { run };
    this.#runs.add(entry);
    if (this.#runs.size === 1) this.#end = this.#begin?.();
    safely(run, this.#value);
    return () => {
      if (this.#runs.delete(entry) && !this.#runs.size) this.#end?.();
    };
  }
}
