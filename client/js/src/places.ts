import type { Place, PlaceStorage } from './types.js';

/** How long a place may wait to be kept, in milliseconds. */
const saveEvery = 200;

/** Keeps the places of topics in a storage, not more often than it has to. */
export class Saver {
  readonly #changed = new Map<string, () => Place | undefined>();
  #timer: ReturnType<typeof setTimeout> | undefined;
  readonly #flush = (): void => this.flush();

  constructor(
    readonly storage: PlaceStorage,
    readonly host: string,
    readonly report: (error: unknown) => void,
  ) {
    globalThis.addEventListener?.('pagehide', this.#flush);
  }

  #key(topic: string): string {
    return `${this.host}/${topic}`;
  }

  async get(topic: string): Promise<Place | undefined> {
    return this.storage.get(this.#key(topic));
  }

  set(topic: string, place: () => Place | undefined): void {
    this.#changed.set(topic, place);
    this.#timer ??= setTimeout(this.#flush, saveEvery);
  }

  flush(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    for (const [topic, current] of this.#changed) {
      const place = current();
      if (place) this.storage.set(this.#key(topic), place).catch(this.report);
    }
    this.#changed.clear();
  }

  close(): void {
    this.flush();
    globalThis.removeEventListener?.('pagehide', this.#flush);
  }
}
