import { RealtimeError } from './error.js';

/** Completes a server's address: ws, wss, http or https, or relative to the page; the path is /ws by default. */
export function endpoint(address: string | URL): URL {
  let url: URL | undefined;
  try {
    url = new URL(address, globalThis.location?.href);
  } catch {
    // said below
  }
  if (!url || !/^(ws|http)s?:/.test(url.href)) {
    throw new RealtimeError('invalid', `${address} is not a server's address such as https://example.com`);
  }
  url.protocol = url.protocol.replace('http', 'ws');
  if (url.pathname === '/') url.pathname = '/ws';
  url.hash = '';
  return url;
}
