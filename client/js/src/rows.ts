import { type Key, keyFunction } from './fold.js';
import { safely } from './store.js';
import { type RowsView, Table } from './table.js';
import type { EventMap, Readable, Topic } from './types.js';
import type { Answer, Change } from './writes.js';

export type { Key } from './fold.js';
export type { RowsState, RowsView } from './table.js';
export type { Answer, Change } from './writes.js';

/** The rows of a topic with such events. Without a map of one's own, rows may be anything. */
export type RowOf<E extends EventMap> = string extends keyof E
  ? any
  : 'created' extends keyof E
    ? E['created']
    : E[keyof E & string];

/**
 * What rows are found by: a member, several members, or a function, which is also given old keys (the key's
 * members and nothing else), has to find the same in them, and gives undefined where it cannot.
 */
export type RowKey<Row> = (keyof Row & string) | readonly (keyof Row & string)[] | ((row: Row) => Key | undefined);

/** How a live table is made. */
export interface RowsOptions<Row> {
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
export interface Rows<Row> extends Readable<RowsView<Row>> {
  /** The row of that key, local writes included. */
  row(key: Key): Row | undefined;
  /**
   * Shows a change at once, and calls send, which is to make it true: by a publish, or by a
   * request to the app's own backend. Gives what send gives. If send fails, exactly this change
   * is taken back, and the promise fails with the same error.
   */
  write<A extends Answer>(change: Change<Row> | readonly Change<Row>[], send: () => Promise<A>): Promise<A>;
}

/** One table for each topic and key, so that all who look at it see the same, also local writes. */
const tables = new WeakMap<Topic<any>, Map<unknown, Table>>();

function tableOf(topic: Topic<any>, key: RowKey<any>, settle: number): Table {
  let known = tables.get(topic);
  if (!known) tables.set(topic, (known = new Map()));
  const name = typeof key === 'function' ? key : JSON.stringify(key);
  let table = known.get(name);
  if (!table) known.set(name, (table = new Table(topic, keyFunction(key), settle)));
  return table;
}

/**
 * The live table of a topic that was opened with { snapshot: true }. Tables of the same topic and
 * key are one: they share rows and local writes, and the settle of the first. Throws TypeError for
 * a topic without snapshot.
 */
export function rows<E extends EventMap, Row = RowOf<E>>(topic: Topic<E>, options: RowsOptions<NoInfer<Row>> = {}): Rows<Row> {
  const { key = 'id' as RowKey<Row>, sort, settle = 5000 } = options;
  const table = tableOf(topic, key, settle);

  let from: RowsView<unknown> | undefined;
  let sorted: RowsView<Row> | undefined;
  const get = (): RowsView<Row> => {
    const view = table.get() as RowsView<Row>;
    if (!sort) return view;
    if (view !== from || !sorted) {
      sorted = { ...view, rows: [...view.rows].sort(sort) };
      from = view;
    }
    return sorted;
  };
  return {
    get,
    subscribe(run) {
      let seen: RowsView<Row> | undefined;
      const tell = (): void => {
        const view = get();
        if (view === seen) return;
        seen = view;
        safely(run, view); // the others are told, and writes go on, whatever this one throws
      };
      const end = table.listen(tell);
      tell();
      return end;
    },
    row: (key) => table.row(key) as Row | undefined,
    write: (change, send) => table.write(Array.isArray(change) ? change : [change as Change<Row>], send),
  };
}
