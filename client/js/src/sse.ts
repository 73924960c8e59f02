import type { Dial } from './dial.js';
import { RealtimeError } from './error.js';
import type { ConnectOptions } from './types.js';

/** The address of HTTP beside that of a WebSocket, without a slash at its end. */
export function httpBase(url: URL): string {
  const base = new URL(url);
  base.protocol = base.protocol.replace('ws', 'http');
  base.pathname = base.pathname.replace(/\/?(ws)?\/?$/, '');
  base.search = '';
  return base.href.replace(/\/$/, '');
}

/** Whether the server answers over HTTP. */
export async function reachable(url: URL, options: ConnectOptions): Promise<boolean> {
  try {
    await (options.fetch ?? fetch)(`${httpBase(url)}/healthz`, { mode: 'no-cors' });
    return true;
  } catch {
    return false;
  }
}

export const dialSSE: Dial = () => {
  throw new RealtimeError('unsupported', 'there is no WebSocket here: pass one as the option WebSocket');
};
