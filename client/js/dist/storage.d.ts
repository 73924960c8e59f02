import { g as PlaceStorage } from "./types.js";

//#region src/storage.d.ts
/** Keeps places as long as the page, or the program, lives. */
declare function memoryStorage(): PlaceStorage;
/**
 * Keeps places in the browser's IndexedDB, in a database of that name: a page that is loaded
 * again goes on where it was. Fails where there is no IndexedDB.
 */
declare function indexedDBStorage(name?: string): PlaceStorage;
//#endregion
export { indexedDBStorage, memoryStorage };