import { signal } from '@preact/signals';
import { go } from './router.js';

/** What lies before the page: the palette, or the sheet of keys. */
export const sheet = signal<'' | 'palette' | 'keys'>('');

/** The keys that go somewhere, after g. */
export const places: readonly (readonly [key: string, page: string, name: string])[] = [
  ['o', '', 'Overview'],
  ['t', 'topics', 'Topics'],
  ['b', 'tables', 'Tables'],
  ['s', 'sessions', 'Sessions'],
  ['h', 'health', 'Health'],
  ['d', 'docs', 'Docs'],
];

type Handler = (event: KeyboardEvent) => void;
const pageKeys = new Map<string, Handler>();

/** Has a key mean something for as long as a page is there; gives the function that ends it. */
export function bind(key: string, handler: Handler): () => void {
  pageKeys.set(key, handler);
  return () => {
    if (pageKeys.get(key) === handler) pageKeys.delete(key);
  };
}

/** Whether what is typed goes into a field. */
export function typing(event: KeyboardEvent): boolean {
  const target = event.target;
  return (
    target instanceof HTMLElement &&
    (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName)) &&
    !(target instanceof HTMLInputElement && /^(range|checkbox|radio|button)$/.test(target.type))
  );
}

/** When g was pressed, on the page's clock, which begins at 0 when it is loaded. */
let leader = -Infinity;

/** Listens to the keyboard for the whole page. */
export function listenToKeys(): void {
  addEventListener('keydown', (event) => {
    if ((event.metaKey || event.ctrlKey) && event.key.toLowerCase() === 'k') {
      event.preventDefault();
      sheet.value = sheet.value === 'palette' ? '' : 'palette';
      return;
    }
    if (event.metaKey || event.ctrlKey || event.altKey || document.querySelector('dialog[open]')) return;
    if (typing(event)) {
      if (event.key === 'Escape') (event.target as HTMLElement).blur();
      return;
    }
    if (performance.now() - leader < 1200) {
      leader = -Infinity;
      const place = places.find(([key]) => key === event.key);
      if (place) {
        event.preventDefault();
        if (place[1]) go(place[1]);
        else go();
      }
      return;
    }
    if (event.key === 'g') {
      leader = performance.now();
    } else if (event.key === '?') {
      event.preventDefault();
      sheet.value = 'keys';
    } else if (event.key === '/') {
      event.preventDefault();
      const field = document.querySelector<HTMLInputElement>('main [data-search]');
      if (field) {
        field.focus();
        field.select();
      } else sheet.value = 'palette';
    } else pageKeys.get(event.key)?.(event);
  });
}
