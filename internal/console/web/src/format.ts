import { signal } from '@preact/signals';

const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
const one = new Intl.NumberFormat('en', { maximumFractionDigits: 1 });
const two = new Intl.NumberFormat('en', { maximumFractionDigits: 2 });
const short = new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 1 });
const exactTime = new Intl.DateTimeFormat('en-GB', {
  year: 'numeric', month: '2-digit', day: '2-digit', hour: '2-digit', minute: '2-digit', second: '2-digit', hour12: false,
});

/** A whole number with its thousands apart. */
export const count = (value: number): string => whole.format(value);
/** A number in at most some five characters: 12.3K. */
export const compact = (value: number): string => (Math.abs(value) < 10_000 ? whole.format(value) : short.format(value));
/** A rate: exact enough for its size. */
export const rate = (value: number): string =>
  value === 0 ? '0' : value < 1 ? two.format(value) : value < 100 ? one.format(value) : compact(value);

/** A span of milliseconds as a figure and its unit. */
export function span(ms: number): [figure: string, unit: string] {
  if (ms < 1000) return [ms === 0 ? '0' : ms < 10 ? two.format(ms) : ms < 100 ? one.format(ms) : whole.format(ms), 'ms'];
  if (ms < 120_000) return [one.format(ms / 1000), 's'];
  if (ms < 7_200_000) return [one.format(ms / 60_000), 'min'];
  return [one.format(ms / 3_600_000), 'h'];
}
export const spanText = (ms: number): string => span(ms).join(' ');

/** The moment, ticking each second: what relative times are relative to. */
export const now = signal(Date.now());
setInterval(() => {
  if (!document.hidden) now.value = Date.now();
}, 1000);

/** How long ago, in words that do not jump about: "12 s ago". */
export function ago(at: number, from: number): string {
  const s = Math.round((from - at) / 1000);
  if (s < -1) return `in ${duration(-s)}`;
  return s < 2 ? 'just now' : `${duration(s)} ago`;
}

/** Seconds in their largest unit: "3 min". */
export function duration(s: number): string {
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 172_800) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86_400)} d`;
}

/** A moment exactly, of the day it was. */
export function exact(at: number): string {
  const text = exactTime.format(at).replace(',', '');
  const [day = '', time = ''] = text.split(' ');
  return `${day.split('/').reverse().join('-')} ${time}.${String(Math.floor(at) % 1000).padStart(3, '0')}`;
}

/**
 * When an event was written, in milliseconds, or undefined. To clients an id is opaque; the
 * console, which comes with the server, knows that it ends in the microseconds of the writing.
 */
export function writtenAt(id: string): number | undefined {
  const micros = /^[0-9a-f]+-([0-9a-f]+)$/.exec(id)?.[1];
  return micros ? Number.parseInt(micros, 16) / 1000 : undefined;
}

/** JSON in one line, of at most so many characters. */
export function brief(value: unknown, most = 300): string {
  const text = value === undefined ? '' : JSON.stringify(value);
  return text.length > most ? `${text.slice(0, most)}…` : text;
}
