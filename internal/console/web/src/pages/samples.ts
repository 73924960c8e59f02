import type { Overview, Sample } from '../api.js';

/** For how long figures are kept: as long as the server does. */
export const kept = 15 * 60_000;

/**
 * The samples that there are, with those that came anew, in order and each once. Those of before
 * the last 15 minutes go.
 */
export function merge(old: readonly Sample[], fresh: readonly Sample[]): Sample[] {
  const last = old.at(-1)?.at ?? 0;
  const all = [...old, ...fresh.filter((s) => s.at > last)];
  const edge = (all.at(-1)?.at ?? 0) - kept;
  const first = all.findIndex((s) => s.at > edge);
  return first > 0 ? all.slice(first) : all;
}

export const names = ['events', 'deliveries', 'p50', 'p99', 'sessions', 'behind', 'sequencing', 'replication'] as const;
export type Name = (typeof names)[number];
/** The samples by column; at is in seconds. A sample of nulls stands where the server was away. */
export type Table = { at: number[] } & Record<Name, (number | null)[]>;

/** For how long a lag that was measured holds, in seconds: it is not measured each second. */
const lagHolds = 10;

/** Turns samples into columns, with a gap where more than three seconds are missing. */
export function columns(samples: readonly Sample[]): Table {
  const table: Table = { at: [], events: [], deliveries: [], p50: [], p99: [], sessions: [], behind: [], sequencing: [], replication: [] };
  let before = 0;
  for (const sample of samples) {
    if (before && sample.at - before > 3000) {
      table.at.push((before + 1000) / 1000);
      for (const name of names) table[name].push(null);
    }
    before = sample.at;
    table.at.push(sample.at / 1000);
    for (const name of names) table[name].push(sample[name]);
  }
  let age = Infinity;
  table.replication.forEach((value, i) => {
    if (value !== null) age = 0;
    else if (table.sessions[i] === null) age = Infinity; // the server was away
    else if (++age <= lagHolds) table.replication[i] = table.replication[i - 1]!;
  });
  return table;
}

/** The average of the newest ten seconds, of those that have a value; null without one. */
export function recent(samples: readonly Sample[], name: Name): number | null {
  const values = samples.slice(-10).map((s) => s[name]).filter((v): v is number => v !== null);
  return values.length ? values.reduce((a, b) => a + b, 0) / values.length : null;
}

/** The newest value there is within the last ten seconds; null without one. */
export function newest(samples: readonly Sample[], name: Name): number | null {
  for (const sample of samples.slice(-10).reverse()) {
    const value = sample[name];
    if (value !== null) return value;
  }
  return null;
}

export type Totals = Omit<Overview, 'samples'>;
