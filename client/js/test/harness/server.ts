// Real servers for tests: pgcast dev with a Postgres of its own, and pgcast serve on it.
import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { chmodSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import pg from 'pg';

const here = fileURLToPath(new URL('.', import.meta.url));
const root = join(here, '../../../..');

/** How long anything may take to come up, in milliseconds: a busy machine is slow. */
export const within = 100_000;
/** How long a server may take to end by itself, in milliseconds, before it is made to. */
const endWithin = 60_000;

pg.types.setTypeParser(pg.types.builtins.INT8, Number);

/** Where a server is. It can be given to another process. */
export interface Address {
  /** http://127.0.0.1:PORT, without a slash. */
  url: string;
  /** ws://127.0.0.1:PORT/ws */
  ws: string;
  /** http://127.0.0.1:PORT of the admin listener. */
  admin: string;
  databaseURL: string;
}

/** A server under test. */
export interface Server extends Address {
  /** The pid of the server's process; another one after restart. */
  readonly pid: number;
  sql<Row = Record<string, any>>(text: string, params?: unknown[]): Promise<Row[]>;
  /** Everything the process has said. */
  said(): string;
  /** Sends a signal; the promise is for its end. */
  end(signal: NodeJS.Signals): Promise<void>;
  /** kill -9. */
  kill(): Promise<void>;
  /** Starts it again at the same address, after end or kill, with more flags if there are any. */
  start(...flags: string[]): Promise<void>;
  /** Ends it, if it runs, and what belongs to it. */
  stop(): Promise<void>;
}

/** The binary under test: PGCAST_BIN, or built once by go. Gives also what removes it again. */
export function binary(): { path: string; remove(): void } {
  const path = process.env.PGCAST_BIN;
  if (path) return { path, remove() {} };
  const dir = mkdtempSync(join(tmpdir(), 'pgcast-bin-'));
  const built = join(dir, 'pgcast');
  try {
    execFileSync('go', ['build', '-o', built, './cmd/pgcast'], { cwd: root, stdio: ['ignore', 'inherit', 'inherit'] });
  } catch (err) {
    rmSync(dir, { recursive: true, force: true });
    throw err;
  }
  process.env.PGCAST_BIN = built; // for the workers
  return {
    path: built,
    remove() {
      delete process.env.PGCAST_BIN;
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

/** Waits until look gives something, and gives it. It looks every few milliseconds. */
export async function until<T>(what: string | (() => string), look: () => T | Promise<T>, ms = within): Promise<NonNullable<T>> {
  const deadline = Date.now() + ms;
  for (;;) {
    const value = await look();
    if (value) return value;
    if (Date.now() > deadline) throw new Error(`waited ${ms} ms for ${typeof what === 'string' ? what : what()}`);
    await pause(5);
  }
}

/** A moment. Never used to wait for something to have happened. */
export function pause(ms: number): Promise<void> {
  return new Promise((done) => setTimeout(done, ms));
}

/** A port that nobody uses at this moment. */
export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  const { port } = server.address() as { port: number };
  await new Promise((done) => server.close(done));
  return port;
}

/** A process that ends with this one. */
class Process {
  pid = 0;
  output = '';
  readonly ended: Promise<void>;
  private readonly guard: ChildProcess;
  private over = false;

  private constructor(args: string[], dir: string) {
    const { PGCAST_BIN, ...env } = process.env;
    for (const name of Object.keys(env)) if (name.startsWith('PGCAST_')) delete env[name];
    this.guard = spawn(process.execPath, [join(here, 'guard.mjs'), dir, PGCAST_BIN ?? 'pgcast', ...args], {
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
      env,
    });
    const hear = (chunk: Buffer) => {
      this.output = (this.output + chunk).slice(-200_000);
    };
    this.guard.stdout!.on('data', hear);
    this.guard.stderr!.on('data', hear);
    this.ended = new Promise((done) => {
      this.guard.once('close', () => {
        this.over = true;
        done();
      });
    });
  }

  static async run(args: string[], dir = '-'): Promise<Process> {
    const p = new Process(args, dir);
    p.guard.once('message', (said) => (p.pid = (said as { pid: number }).pid));
    try {
      await until('the process to begin', () => p.pid || p.check());
    } catch (err) {
      p.guard.kill(); // which ends what it may have begun
      throw err;
    }
    return p;
  }

  /** Throws if it has ended: nobody is to wait for it. */
  check(): false {
    if (this.over) throw new Error(`pgcast has ended:\n${this.output.slice(-4000)}`);
    return false;
  }

  /** Sends a signal, and waits for the end; one that does not come in time is forced, and fails. */
  async end(signal: NodeJS.Signals): Promise<void> {
    if (this.over) return;
    this.signal(signal);
    let forced = false;
    const timer = setTimeout(() => {
      forced = true;
      this.signal('SIGKILL');
    }, endWithin);
    await this.ended;
    clearTimeout(timer);
    if (forced) throw new Error(`pgcast did not end within ${endWithin} ms of ${signal}:\n${this.output.slice(-4000)}`);
  }

  private signal(signal: NodeJS.Signals): void {
    try {
      process.kill(this.pid, signal);
    } catch {
      // it has ended a moment ago: its guard is about to say so
    }
  }
}

abstract class Base implements Server {
  url = '';
  ws = '';
  admin = '';
  protected process!: Process;
  private pool: pg.Pool | undefined;

  constructor(public databaseURL: string) {}

  get pid(): number {
    return this.process.pid;
  }

  async sql<Row = Record<string, any>>(text: string, params?: unknown[]): Promise<Row[]> {
    this.pool ??= poolOf(this.databaseURL);
    const result = await this.pool.query(text, params);
    return result.rows as Row[];
  }

  said(): string {
    return this.process.output;
  }

  end(signal: NodeJS.Signals): Promise<void> {
    return this.process.end(signal);
  }

  kill(): Promise<void> {
    return this.process.end('SIGKILL');
  }

  abstract start(...flags: string[]): Promise<void>;

  async stop(): Promise<void> {
    const pool = this.pool;
    this.pool = undefined;
    await pool?.end();
    await this.process?.end('SIGTERM');
  }
}

function poolOf(connectionString: string): pg.Pool {
  const pool = new pg.Pool({ connectionString, max: 4 });
  pool.on('error', () => {}); // an idle connection that broke is replaced
  return pool;
}

class Dev extends Base {
  constructor(private readonly flags: string[]) {
    super('');
  }

  async start(...flags: string[]): Promise<void> {
    const dir = mkdtempSync(join(tmpdir(), 'pgcast-test-'));
    chmodSync(dir, 0o755); // Postgres runs as somebody else where this is root
    this.process = await Process.run(
      ['dev', '--no-demo', '--data-dir', dir, '--listen', '127.0.0.1:0', '--admin-listen', '127.0.0.1:0', ...this.flags, ...flags],
      dir,
    );
    const file = await until('pgcast dev to be up', () => {
      this.process.check();
      try {
        return JSON.parse(readFileSync(join(dir, 'dev.json'), 'utf8')) as Record<string, string>;
      } catch {
        return undefined; // not yet
      }
    });
    this.url = file.url!.replace(/\/$/, '');
    this.ws = file.websocket!;
    this.admin = new URL(file.metrics!).origin;
    this.databaseURL = file.database_url!;
  }
}

class Serve extends Base {
  private ports: number[] | undefined;

  constructor(
    databaseURL: string,
    private readonly flags: string[],
  ) {
    super(databaseURL);
  }

  async start(...flags: string[]): Promise<void> {
    this.ports ??= [await freePort(), await freePort()];
    const [listen, admin] = this.ports.map((port) => `127.0.0.1:${port}`);
    this.url = `http://${listen}`;
    this.ws = `ws://${listen}/ws`;
    this.admin = `http://${admin}`;
    this.process = await Process.run([
      ...['serve', '--migrate', '--database-url', this.databaseURL],
      ...['--listen', listen!, '--admin-listen', admin!],
      ...this.flags,
      ...flags,
    ]);
    await until('pgcast serve to be ready', async () => {
      this.process.check();
      try {
        return (await fetch(`${this.admin}/readyz`)).ok;
      } catch {
        return false; // does not listen yet
      }
    });
  }
}

/** Starts a server, or ends what has been started of it: nobody else could. */
async function started(server: Base): Promise<Server> {
  try {
    await server.start();
    return server;
  } catch (err) {
    await server.stop().catch(() => {});
    throw err;
  }
}

/** Starts pgcast dev with a Postgres, ports and a directory of its own. Stop it at the end. */
export function dev(...flags: string[]): Promise<Server> {
  return started(new Dev(flags));
}

/**
 * Starts pgcast serve with some flags on a new database of a running dev's Postgres, so that
 * nobody else sequences there; or, with a databaseURL, as one more server of that database.
 */
export async function serve(of: Address, flags: string[] = [], databaseURL?: string): Promise<Server> {
  return started(new Serve(databaseURL ?? (await newDatabase(of)), flags));
}

let databases = 0;

/** Makes an empty database in a dev's Postgres, and gives its URL. It goes with the dev. */
export async function newDatabase(of: Address): Promise<string> {
  const name = `t${process.pid}_${++databases}`;
  const client = new pg.Client({ connectionString: of.databaseURL });
  await client.connect();
  try {
    await client.query(`create database ${name}`);
  } finally {
    await client.end();
  }
  const url = new URL(of.databaseURL);
  url.pathname = `/${name}`;
  return url.href;
}
