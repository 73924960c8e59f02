// A bad network, on purpose: a TCP proxy before a server that sees the protocol pass and can
// cut it at any step of it.
import { connect, createServer, type AddressInfo, type Server as Listener, type Socket } from 'node:net';
import { Frames, text, type Raw } from './frames.js';

/** What passes. Both directions are told apart by up: from the client to the server. */
export interface Passing {
  up: boolean;
  /** head: of an HTTP request or answer; body: bytes of one; frame: of a WebSocket. */
  kind: 'head' | 'body' | 'frame';
  /** The head, the bytes of a body, or the text of a frame. */
  text: string;
  /** The frame's JSON, if it is a text frame. */
  frame?: Record<string, any>;
  /** Counts the connections of this proxy: 1, 2, 3 … */
  connection: number;
}

/**
 * How a connection ends: reset, by RST at once; close, by FIN; deaf, nothing is forwarded any
 * more and nobody is told; deaf-up and deaf-down, only in that direction.
 */
export type How = 'reset' | 'close' | 'deaf' | 'deaf-up' | 'deaf-down';

/** What happens to something that passes. */
export type Verdict = 'pass' | 'swallow' | { cut: How; where: 'before' | 'within' | 'after' };

/** A rule looks at everything that passes, in order. */
export type Rule = (passing: Passing) => Verdict | undefined;

/** How a WebSocket's handshake is answered where it is blocked. */
export type Block = 'forbidden' | 'html' | 'close';

export class Proxy {
  /** What passes is judged by it; undefined lets everything pass. */
  rule: Rule | undefined;
  /** Blocks WebSockets as some firewalls do. Plain HTTP passes. */
  block: Block | undefined;
  /** Breaks each new connection at once. */
  refuse = false;
  /** A pause before each write to the client, in milliseconds. */
  slow = 0;
  /** After so many milliseconds a deaf connection is reset, as a NAT box that forgot it would. */
  patience = 3000;
  /** How many connections were made. */
  connections = 0;
  private readonly open = new Set<Pair>();
  private listener: Listener | undefined;
  private port = 0;

  private constructor(private readonly target: { host: string; port: number }) {}

  /** Begins a proxy before a server. Close it at the end. */
  static async to(server: { url: string }): Promise<Proxy> {
    const { hostname, port } = new URL(server.url);
    const proxy = new Proxy({ host: hostname, port: Number(port) });
    await proxy.listen();
    return proxy;
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  get ws(): string {
    return `ws://127.0.0.1:${this.port}/ws`;
  }

  /** How many connections are there now. */
  get size(): number {
    return this.open.size;
  }

  /** Listens, anew after unlisten at the same port. */
  async listen(): Promise<void> {
    if (this.listener) return;
    const listener = createServer((client) => this.accept(client));
    await new Promise<void>((done, fail) => {
      listener.once('error', fail);
      listener.listen(this.port, '127.0.0.1', done);
    });
    this.listener = listener;
    this.port = (listener.address() as AddressInfo).port;
  }

  /** Connections are refused from now on. Those that are there stay. */
  unlisten(): void {
    this.listener?.close();
    this.listener = undefined;
  }

  /** Cuts everything that is there now. */
  cut(how: How = 'reset'): void {
    for (const pair of [...this.open]) pair.cut(how);
  }

  /** Ends everything. */
  close(): void {
    this.unlisten();
    this.cut();
  }

  private accept(client: Socket): void {
    this.connections++;
    if (this.refuse) {
      client.on('error', () => {});
      client.resetAndDestroy();
      return;
    }
    const pair = new Pair(this, client, connect(this.target), this.connections, () => this.open.delete(pair));
    this.open.add(pair);
  }
}

/** One connection through the proxy. */
class Pair {
  private readonly deaf = { up: false, down: false };
  private readonly frames = { up: new Frames(), down: new Frames() };
  private heads = { up: '', down: '' };
  private websocket = false;
  private over = false;
  private timer: NodeJS.Timeout | undefined;
  private queue: Promise<void> = Promise.resolve();

  constructor(
    private readonly proxy: Proxy,
    private readonly client: Socket,
    private readonly server: Socket,
    private readonly number: number,
    private readonly ended: () => void,
  ) {
    client.setNoDelay(true);
    server.setNoDelay(true);
    client.on('data', (chunk: Buffer) => this.take(true, chunk));
    server.on('data', (chunk: Buffer) => this.take(false, chunk));
    for (const [from, up] of [[client, true], [server, false]] as const) {
      from.on('error', () => {}); // close follows
      from.on('end', () => this.deaf[up ? 'up' : 'down'] || this.after(() => this.cut('close')));
      // A client that has gone has gone; that the server has is not to be seen through a deaf wire.
      from.on('close', () => (up || !this.deaf.down) && this.after(() => this.cut('close')));
    }
  }

  cut(how: How): void {
    if (this.over) return;
    if (how === 'deaf' || how === 'deaf-up' || how === 'deaf-down') {
      this.deaf.up ||= how !== 'deaf-down';
      this.deaf.down ||= how !== 'deaf-up';
      this.timer ??= setTimeout(() => this.cut('reset'), this.proxy.patience);
      return;
    }
    this.over = true;
    clearTimeout(this.timer);
    for (const socket of [this.client, this.server]) {
      if (how === 'reset') socket.resetAndDestroy();
      else socket.end(() => socket.destroy());
    }
    this.ended();
  }

  /** Does something after what is still to be written slowly. */
  private after(what: () => void): void {
    if (this.proxy.slow) this.queue = this.queue.then(what);
    else what();
  }

  private take(up: boolean, chunk: Buffer): void {
    const way = up ? 'up' : 'down';
    if (this.over || this.deaf[way]) return;
    if (this.websocket) {
      for (const message of this.frames[way].push(chunk)) this.message(up, message);
      return;
    }
    // A head may come in parts; a body follows the last head of its direction.
    const said = this.heads[way] + chunk.toString('latin1');
    if (!/^([A-Z]+ \/|HTTP\/1\.1 )/.test(said)) {
      this.judge({ up, kind: 'body', text: chunk.toString('latin1'), connection: this.number }, chunk);
      return;
    }
    const end = said.indexOf('\r\n\r\n') + 4;
    if (end < 4) {
      this.heads[way] = said;
      return;
    }
    this.heads[way] = '';
    const all = Buffer.from(said, 'latin1');
    const head = said.slice(0, end);
    if (up && this.proxy.block && /\r\nupgrade: websocket\r\n/i.test(head)) {
      this.blocked(this.proxy.block);
      return;
    }
    if (!this.judge({ up, kind: 'head', text: head, connection: this.number }, all.subarray(0, end))) return;
    this.websocket = !up && head.startsWith('HTTP/1.1 101 ');
    if (all.length > end) this.take(up, all.subarray(end));
  }

  private blocked(how: Block): void {
    this.over = true;
    const page = '<!doctype html><title>Blocked</title><p>This page is not available here.';
    const status = { forbidden: '403 Forbidden', html: '200 OK', close: '' }[how];
    const answer = `HTTP/1.1 ${status}\r\nContent-Type: text/html\r\nContent-Length: ${page.length}\r\nConnection: close\r\n\r\n${page}`;
    this.client.end(how === 'close' ? '' : answer, () => this.client.destroy());
    this.server.destroy();
    this.ended();
  }

  private message(up: boolean, raw: Raw): void {
    const passing: Passing = { up, kind: 'frame', text: raw.payload.toString(), connection: this.number };
    if (raw.opcode === text) passing.frame = JSON.parse(passing.text) as Record<string, any>;
    this.judge(passing, raw.bytes);
  }

  /** Forwards bytes, or does what the rule says; tells whether it still forwards that way. */
  private judge(passing: Passing, bytes: Buffer): boolean {
    const way = passing.up ? 'up' : 'down';
    if (this.over || this.deaf[way]) return false;
    const verdict = this.proxy.rule?.(passing) ?? 'pass';
    if (verdict === 'swallow') return true;
    if (verdict === 'pass') {
      this.write(passing.up, bytes);
      return true;
    }
    const { cut, where } = verdict;
    if (where !== 'before') this.write(passing.up, where === 'within' ? bytes.subarray(0, bytes.length >> 1) : bytes);
    // What was written goes out first: a reset would throw it away.
    if (cut === 'reset' && where !== 'before') {
      const to = passing.up ? this.server : this.client;
      this.deaf.up = this.deaf.down = true;
      this.after(() => to.write('', () => setImmediate(() => this.cut('reset'))));
    } else {
      this.after(() => this.cut(cut));
      // Nothing follows bytes that were held back: TCP leaves none out in the middle.
      if (cut === 'deaf' || cut === `deaf-${way}` || where !== 'after') this.deaf[way] = true;
    }
    return !this.over && !this.deaf[way];
  }

  private write(up: boolean, bytes: Buffer): void {
    const to = up ? this.server : this.client;
    if (up || !this.proxy.slow) {
      to.write(bytes);
      return;
    }
    this.server.pause();
    this.queue = this.queue.then(async () => {
      await new Promise((done) => setTimeout(done, this.proxy.slow));
      if (!this.over) to.write(bytes);
      this.server.resume();
    });
  }
}
