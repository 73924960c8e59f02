import type { Place } from './types.js';

/** What waits for one iteration. */
export interface Queue<T> extends AsyncIterableIterator<T> {
  /** What was not taken yet, each with the place before it. */
  waiting: { item: T; before: Place | undefined }[];
  push(item: T, before: Place | undefined): void;
  /** It ends, with an error if there is one, behind what waits. */
  end(error?: Error): void;
}

/** moved runs when something was taken; left when nobody iterates any more. */
export function queueOf<T>(moved: () => void, left: () => void): Queue<T> {
  type Reader = [(result: IteratorResult<T>) => void, (error: Error) => void];
  const waiting: Queue<T>['waiting'] = [];
  let readers: Reader[] = [];
  let over = false;
  let why: Error | undefined;

  const finish = ([resolve, reject]: Reader): void => {
    if (why) reject(why);
    else resolve({ done: true, value: undefined });
    why = undefined; // it is told once
  };
  const queue: Queue<T> = {
    waiting,
    push(item, before) {
      if (over) return;
      const reader = readers.shift();
      if (reader) reader[0]({ done: false, value: item });
      else waiting.push({ item, before });
    },
    end(error) {
      if (!over) why = error;
      over = true;
      readers.forEach(finish);
      readers = [];
    },
    next: () =>
      new Promise((...reader) => {
        const first = waiting.shift();
        if (first) {
          reader[0]({ done: false, value: first.item });
          moved();
        } else if (over) finish(reader);
        else readers.push(reader);
      }),
    async return() {
      left();
      waiting.length = 0;
      queue.end();
      return { done: true, value: undefined };
    },
    [Symbol.asyncIterator]: () => queue,
  };
  return queue;
}
