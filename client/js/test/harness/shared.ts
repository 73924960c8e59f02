// What tests use of the server that they share, and of others beside it.
import pg from 'pg';
import { inject } from 'vitest';
import './global.js';
import type { Address } from './server.js';

/** The pgcast dev of this run. */
export const shared: Address = inject('dev');

let pool: pg.Pool | undefined;

/** Runs SQL on the shared server's database. */
export async function sql<Row = Record<string, any>>(text: string, params?: unknown[]): Promise<Row[]> {
  pool ??= new pg.Pool({ connectionString: shared.databaseURL, max: 4, allowExitOnIdle: true });
  return (await pool.query(text, params)).rows as Row[];
}

let names = 0;

/** A topic's name, or a part of one, that no other test uses. */
export function fresh(name: string): string {
  return `${name}.${process.pid}.${++names}`;
}
