import { E as Topic, o as EventMap, v as Readable } from "./types.js";

//#region src/fold.d.ts
/** What a row is found by. A key of several members is their values as a JSON array. */
type Key = string | number;
//#endregion
//#region src/writes.d.ts
/** A local write to a live table. */
type Change<Row> = /** The row as it will be, whether or not there is one of its key. */{
  put: Row;
} /** A new row whose key the server will choose: until then it has one of its own, which no other row has. */ | {
  add: Row;
} /** Some members of a row. The key says which row; it may be left out where patch has it. */ | {
  patch: Partial<Row>;
  key?: Key | Partial<Row>;
} /** The row of that key, or the key's members, is no more. */ | {
  remove: Key | Partial<Row>;
};
/** What send may answer: the id of the event that the write became, or the key of the row that it made. */
type Answer = {
  id?: string;
  key?: Key;
} | null | undefined | void;
//#endregion
//#region src/table.d.ts
/** How a live table is related to what is in Postgres. */
type RowsState = /** Its first snapshot is not complete: there are no rows yet. */'loading' /** It follows the topic. */ | 'live' /** It shows what was: there is no connection, or a new snapshot is under way. */ | 'stale' /** The server ended the subscription, or never began it; see error. The rows are those of before. */ | 'denied';
/** A live table at one moment. Nothing in it ever changes: what changes is which view the table has. */
interface RowsView<Row> {
  /** In the order in which they came, or as sort has it. */
  readonly rows: readonly Row[];
  readonly state: RowsState;
  /** Why it is denied, or why rows are missing: they have no key. */
  readonly error?: Error;
  /** Keys of rows with local writes that have not come back from the server. */
  readonly pending: ReadonlySet<Key>;
  /**
   * What is larger than the server's limit, and therefore not in rows: the keys of rows, or, where a topic is
   * only published to, id and seq of events. Fetch them over HTTP.
   */
  readonly oversize: readonly object[];
}
//#endregion
//#region src/rows.d.ts
/** The rows of a topic with such events. Without a map of one's own, rows may be anything. */
type RowOf<E extends EventMap> = string extends keyof E ? any : 'created' extends keyof E ? E['created'] : E[keyof E & string];
/**
 * What rows are found by: a member, several members, or a function, which is also given old keys (the key's
 * members and nothing else), has to find the same in them, and gives undefined where it cannot.
 */
type RowKey<Row> = (keyof Row & string) | readonly (keyof Row & string)[] | ((row: Row) => Key | undefined);
/** How a live table is made. */
interface RowsOptions<Row> {
  /** What rows are found by. Default id. It has to be the table's key, or, of a topic without a table, what pgcast.project says. */
  key?: RowKey<Row>;
  /** The order of rows, as Array.sort takes it. Without it they are in the order in which they came. */
  sort?: (a: Row, b: Row) => number;
  /** How long a local write that has an answer waits for its event, in milliseconds; default 5000. Time without connection does not count. */
  settle?: number;
}
/**
 * A live table: the rows of a topic, as they are in Postgres, and a moment earlier if they are
 * written here. It follows while somebody is subscribed to it.
 */
interface Rows<Row> extends Readable<RowsView<Row>> {
  /** The row of that key, local writes included. */
  row(key: Key): Row | undefined;
  /**
   * Shows a change at once, and calls send, which is to make it true: by a publish, or by a
   * request to the app's own backend. Gives what send gives. If send fails, exactly this change
   * is taken back, and the promise fails with the same error.
   */
  write<A extends Answer>(change: Change<Row> | readonly Change<Row>[], send: () => Promise<A>): Promise<A>;
}
/**
 * The live table of a topic that was opened with { snapshot: true }. Tables of the same topic and
 * key are one: they share rows and local writes, and the settle of the first. Throws TypeError for
 * a topic without snapshot.
 */
declare function rows<E extends EventMap, Row = RowOf<E>>(topic: Topic<E>, options?: RowsOptions<NoInfer<Row>>): Rows<Row>;
//#endregion
export { type Answer, type Change, type Key, RowKey, RowOf, Rows, RowsOptions, type RowsState, type RowsView, rows };