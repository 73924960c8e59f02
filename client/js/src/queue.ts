import type { Place } from './types.js';

/** What waits for one iteration. */
export class Queue<T> implements AsyncIterableIterator<T> {
  #waiting: { item: T; before: Place | undefined }[] = [];
  #readers: { resolve: (result: IteratorResult<T>) => void; reject: (error: Error) => void }[] = [];
  #over: { error?: Error } | undefined;

  /** moved runs when something was taken; left when nobody iterates any more. */
  constructor(
    readonly moved: () => void,
    readonly left: () => void,
  ) {}

  get size(): number {
    return this.#waiting.length;
  }

  /** The place before the oldest that waits. */
  get before(): Place | undefined {
    return this.#waiting[0]!.before;
  }

  push(item: T, before: Place | undefined): void {
    if (this.#over) return;
    const reader = this.#readers.shift();
    if (reader) reader.resolve({ done: false, value: item });
    else this.#waiting.push({ item, before });
  }

  /** It ends, with an error if there is one, behind what waits. */
  end(error?: Error): void {
    this.#over ??= error ? { error } : {};
    for (const reader of this.#readers.splice(0)) this.#finish(reader.resolve, reader.reject);
  }

  #finish(resolve: (result: IteratorResult<T>) => void, reject: (error: Error) => void): void {
    const { error } = this.#over!;
    this.#over = {};
    if (error) reject(error);
    else resolve({ done: true, value: undefined });
  }

  next(): Promise<IteratorResult<T>> {
    return new Promise((resolve, reject) => {
      const first = this.#waiting.shift();
      if (first) {
        resolve({ done: false, value: first.item });
        this.moved();
      } else if (this.#over) this.#finish(resolve, reject);
      else this.#readers.push({ resolve, reject });
    });
  }

  return(): Promise<IteratorResult<T>> {
    this.#waiting = [];
    this.end();
    this.left();
    return Promise.resolve({ done: true, value: undefined });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }
}
