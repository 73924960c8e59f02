import type { Frame } from './link.js';
import type { ConnectOptions } from './types.js';

/** One connection: frames go in and out, until it ends. */
export interface Wire {
  /** Only after open. */
  send(frame: Frame): void;
  /** Ends it; nothing is told of it any more. cut: as a failing network would. */
  close(cut?: boolean): void;
}

export interface Call {
  url: URL;
  /** The first frame; the wire sends it. */
  hello: Frame;
  options: ConnectOptions;
  open(): void;
  frame(frame: Frame): void;
  /** code is a close code, 0 where there is none. */
  closed(code: number, reason: string): void;
}

/** Makes a connection, by WebSocket or otherwise. */
export type Dial = (call: Call) => Wire;

/** Longer ones than this, in bytes, a server that does not know us yet might refuse: it reads 4 KiB. */
const maxHello = 3000;

export const webSocket = (options: ConnectOptions): typeof WebSocket | undefined => options.WebSocket ?? globalThis.WebSocket;

export const dialWebSocket: Dial = ({ url, hello, options, open, frame, closed }) => {
  const protocols = ['pgcast'];
  let text = JSON.stringify(hello);
  if (hello.token && text.length > maxHello) {
    protocols.push(`pgcast.token.${hello.token as string}`);
    text = JSON.stringify({ ...hello, token: undefined });
  }
  // With what only Node's library has.
  const socket: WebSocket & { terminate?: () => void } = new (webSocket(options)!)(url.href, protocols);
  const close = (cut?: boolean): void => {
    socket.onopen = socket.onmessage = socket.onclose = null;
    // Node's library waits for the other side, unless it is told not to.
    if (cut && socket.terminate) socket.terminate();
    else socket.close();
  };
  const end = (code: number, reason?: string): void => {
    close(true);
    closed(code, reason || '');
  };
  socket.onopen = () => {
    socket.send(text);
    open();
  };
  socket.onmessage = ({ data }) => {
    let read: Frame;
    try {
      read = JSON.parse(data as string) as Frame;
    } catch {
      return end(0, 'the server sent what is not JSON');
    }
    frame(read);
  };
  // Not only its end: where a page's policy forbids the connection, Chromium tells of nothing else.
  // It stays for good, for without it Node's library throws what goes wrong.
  socket.onerror = (event) => socket.onclose && end(0, (event as ErrorEvent).message);
  socket.onclose = ({ code, reason }) => end(code, reason);
  return { send: (each) => socket.send(JSON.stringify(each)), close };
};
