import { computed, signal } from '@preact/signals';

/** Where the page is: the segments of the hash, decoded, and what stands behind its question mark. */
export interface Route {
  path: string[];
  query: URLSearchParams;
}

const hash = signal(location.hash);
addEventListener('hashchange', () => {
  hash.value = location.hash;
});

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // a hash that somebody typed
  }
}

/** The route of this moment. */
export const route = computed<Route>(() => {
  const [path = '', query = ''] = hash.value.replace(/^#\/?/, '').split('?', 2);
  return { path: path.split('/').filter(Boolean).map(decode), query: new URLSearchParams(query) };
});

/** The link to a page: its segments are encoded. */
export function link(...path: string[]): string {
  return `#/${path.map(encodeURIComponent).join('/')}`;
}

/** Goes to a page. */
export function go(...path: string[]): void {
  location.hash = link(...path);
}

/** Puts a search into the address without a new entry in the history. */
export function setQuery(name: string, value: string): void {
  const { path, query } = route.value;
  const next = new URLSearchParams(query);
  if (value) next.set(name, value);
  else next.delete(name);
  const text = next.toString();
  history.replaceState(null, '', link(...path) + (text ? `?${text}` : ''));
  hash.value = location.hash;
}
