import { effect, signal } from '@preact/signals';
import { type Realtime, type Status, connect } from 'pgcast';
import { me, token } from './http.js';

let live: Realtime | undefined;
let shown = '';

/** What the connection does; undefined while there is none. */
export const status = signal<Status | undefined>(undefined);
/** Since when there is no connection, and whether there was one; undefined while there is one. */
export const lost = signal<{ at: number; before: boolean } | undefined>(undefined);

/** The connection of this page: one for all that it shows, made when it is first wanted. */
export function realtime(): Realtime {
  if (live) return live;
  const url = new URL('ws', location.href.split('#')[0]);
  url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
  shown = token.value;
  const made = connect(url.href, { token: () => token.value || undefined, transport: 'websocket', share: false });
  live = made;
  let before = false;
  made.status.subscribe((value) => {
    if (value.state === 'online') {
      before = true;
      lost.value = undefined;
    } else lost.value ??= { at: Date.now(), before };
    status.value = value;
  });
  return made;
}

/** Ends the connection. */
export function hangUp(): void {
  live?.close();
  live = undefined;
  status.value = undefined;
  lost.value = undefined;
}

// Who signs out takes the connection along; another token makes another one.
effect(() => {
  if (live && (!me.value?.signedIn || token.value !== shown)) hangUp();
});
