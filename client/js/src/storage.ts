import type { Place, PlaceStorage } from './types.js';

/** Keeps places as long as the page, or the program, lives. */
export function memoryStorage(): PlaceStorage {
  const places = new Map<string, Place>();
  return {
    get: async (key) => places.get(key),
    set: async (key, place) => void places.set(key, place),
    delete: async (key) => void places.delete(key),
  };
}

const store = 'places';

/**
 * Keeps places in the browser's IndexedDB, in a database of that name: a page that is loaded
 * again goes on where it was. Fails where there is no IndexedDB.
 */
export function indexedDBStorage(name = 'pgcast'): PlaceStorage {
  let opened: Promise<IDBDatabase> | undefined;

  const open = (): Promise<IDBDatabase> =>
    (opened ??= new Promise<IDBDatabase>((resolve, reject) => {
      const request = indexedDB.open(name, 1);
      request.onupgradeneeded = () => request.result.createObjectStore(store);
      request.onerror = () => reject(request.error);
      request.onsuccess = () => {
        const db = request.result;
        // A newer version of the page, or somebody who clears the site's data, waits for us.
        db.onversionchange = () => {
          db.close();
          opened = undefined;
        };
        db.onclose = () => {
          opened = undefined;
        };
        resolve(db);
      };
    }).catch((error: unknown) => {
      opened = undefined;
      throw error;
    }));

  const run = async <R>(mode: IDBTransactionMode, use: (places: IDBObjectStore) => IDBRequest<R>): Promise<R> => {
    const db = await open();
    return new Promise((resolve, reject) => {
      const transaction = db.transaction(store, mode);
      const request = use(transaction.objectStore(store));
      transaction.oncomplete = () => resolve(request.result);
      transaction.onabort = transaction.onerror = () => reject(transaction.error ?? request.error);
    });
  };

  return {
    get: (key) => run('readonly', (places) => places.get(key) as IDBRequest<Place | undefined>),
    set: async (key, place) => void (await run('readwrite', (places) => places.put(place, key))),
    delete: async (key) => void (await run('readwrite', (places) => places.delete(key))),
  };
}
