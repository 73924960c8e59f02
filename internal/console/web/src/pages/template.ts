import type { Table } from '../api.js';

/** A piece of a topic's template: text as it is, or a column's value. */
export interface Piece {
  text: string;
  column: boolean;
  /** The column is one of the table's. */
  known: boolean;
}

/** Takes a template apart. A } in a column's name is doubled. */
export function pieces(template: string, columns: readonly string[]): Piece[] {
  const found: Piece[] = [];
  let rest = template;
  for (;;) {
    const hit = /\{((?:[^}]|\}\})*)\}(?!\})/.exec(rest);
    if (!hit) break;
    if (hit.index) found.push({ text: rest.slice(0, hit.index), column: false, known: true });
    const name = hit[1]!.replaceAll('}}', '}');
    found.push({ text: name, column: true, known: columns.includes(name) });
    rest = rest.slice(hit.index + hit[0].length);
  }
  if (rest) found.push({ text: rest, column: false, known: true });
  return found;
}

/** What is wrong with a template, in words; empty where it can be tried. The server has the last word. */
export function templateProblem(template: string, table: Table): string {
  if (!template) return '';
  if (!/^[\x20-\x7e]*$/.test(template.replace(/\{[^}]*\}/g, ''))) return 'A topic has printable ASCII characters only.';
  if (/["\\]/.test(template)) return 'A topic has no " and no \\.';
  if (template.startsWith('__')) return 'Topics that begin with __ are the server’s own.';
  const unknown = pieces(template, table.columns).filter((p) => p.column && !p.known);
  if (unknown.length) return `${table.name} has no column ${unknown.map((p) => p.text || '(without a name)').join(', ')}.`;
  if (/[{]/.test(template.replace(/\{((?:[^}]|\}\})*)\}/g, ''))) return 'A { is not closed.';
  if (template.split(':').some((segment) => segment === '')) return 'Two colons enclose nothing: a segment must not be empty.';
  return '';
}
