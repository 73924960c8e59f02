/**
 * What tests in a real browser stand on: Debian's Chromium driven by Playwright, pages of an
 * origin of the test's own, and pages that fail the test when they log an error. Nothing in it
 * knows of the client, so that the console and the examples are tested with it as well.
 */
import { accessSync, constants, mkdirSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { delimiter, extname, join, normalize, resolve, sep } from 'node:path';
import { chromium, type Browser, type BrowserContext, type BrowserContextOptions, type BrowserServer, type LaunchOptions, type Page } from 'playwright-core';
import { inject } from 'vitest';

declare module 'vitest' {
  interface ProvidedContext {
    /** Where the Chromium of the run is, if global.ts has started one. */
    chromium: string | undefined;
  }
}

/** How long anything in a browser may take on a busy machine, in milliseconds. */
export const patience = 60_000;

/**
 * Where there is a Chromium: PGCAST_CHROMIUM, or the first of Debian's and Google's names on
 * PATH; undefined where there is none. Tests skip then: `describe.skipIf(!findChromium())`.
 */
export function findChromium(): string | undefined {
  const named = process.env.PGCAST_CHROMIUM;
  if (named) return named;
  for (const name of ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable']) {
    for (const dir of (process.env.PATH ?? '').split(delimiter)) {
      const path = join(dir, name);
      try {
        accessSync(path, constants.X_OK);
        return path;
      } catch {
        // not there: the next one
      }
    }
  }
  return undefined;
}

/**
 * Features that tests do without. Each window of a headless Chromium has two more processes for the popup of an
 * address bar that nobody sees: without them a window costs half the time. Of several such flags the last
 * counts, so what Playwright turns off is here as well.
 */
const off = [
  ...['WebUIOmniboxPopup', 'WebUIOmniboxAimPopup', 'WebUIOmniboxFullPopup', 'AiModeOmniboxEntryPoint', 'PreloadTopChromeWebUI'],
  ...['AvoidUnnecessaryBeforeUnloadCheckSync', 'DestroyProfileOnBrowserClose', 'HttpsUpgrades', 'HttpsFirstBalancedModeAutoEnable'],
  ...['LensOverlay', 'MediaRouter', 'PaintHolding', 'ThirdPartyStoragePartitioning', 'AvoidCorsURLLoaderRestartOnRedirect'],
  ...['OptimizationHints', 'NetworkTimeServiceQuerying', 'AimEnabled', 'PreconnectToSearch'],
];

/** Starts a headless Chromium, to which any number of tests may connect. */
export function launch(): Promise<BrowserServer> {
  return chromium.launchServer(headless());
}

function headless(): LaunchOptions {
  const executablePath = findChromium();
  if (!executablePath) throw new Error('no Chromium: install one, or name it in PGCAST_CHROMIUM');
  const args = [
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
    '--disable-dev-shm-usage',
    `--disable-features=${off.join()}`,
  ];
  return { executablePath, headless: true, args, timeout: patience };
}

/** A headless browser. It ends with close, which also fails with what its pages logged as errors. */
export class TestBrowser {
  /** What pages logged as errors, threw, or violated of their policy, and nobody expected. */
  readonly errors: string[] = [];

  private constructor(readonly browser: Browser) {}

  /** Connects to the Chromium of the run, or starts one where the run has none. */
  static async start(): Promise<TestBrowser> {
    const shared = inject('chromium');
    return new TestBrowser(await (shared ? chromium.connect(shared) : chromium.launch(headless())));
  }

  /** A profile of its own: other storage, other shared workers. */
  async profile(options: BrowserContextOptions = {}): Promise<BrowserContext> {
    const context = await this.browser.newContext(options);
    context.setDefaultTimeout(patience);
    context.on('page', (page) => this.watch(page));
    return context;
  }

  private watch(page: Page): void {
    page.on('console', (message) => {
      if (message.type() === 'error') this.note(page, message.text(), message.location().url);
    });
    page.on('pageerror', (error) => this.note(page, String(error.stack ?? error)));
  }

  private note(page: Page, text: string, where = ''): void {
    if (this.expected.get(page)?.some((pattern) => pattern.test(text))) return;
    this.errors.push(`${page.url()}: ${text} ${where}`);
  }

  private readonly expected = new WeakMap<Page, RegExp[]>();

  /** Passes over errors of a page that a test provokes: a browser logs each connection that fails. */
  expect(page: Page, ...patterns: RegExp[]): void {
    this.expected.set(page, [...(this.expected.get(page) ?? []), ...patterns]);
  }

  /** Gives the errors since the last time, for a test's end: `expect(browser.takeErrors()).toEqual([])`. */
  takeErrors(): string[] {
    return this.errors.splice(0);
  }

  async close(): Promise<void> {
    await this.browser.close();
    if (this.errors.length) throw new Error(`pages logged errors:\n${this.errors.join('\n')}`);
  }
}

/** Keeps a picture below artifacts/, to be looked at. Gives its path. */
export async function shoot(page: Page, name: string, options: { fullPage?: boolean } = {}): Promise<string> {
  mkdirSync('artifacts', { recursive: true });
  const path = resolve('artifacts', `${name}.png`);
  await page.screenshot({ path, fullPage: options.fullPage ?? false, animations: 'disabled' });
  return path;
}

/** The size of a phone, to be given to profile. */
export const phone: BrowserContextOptions = {
  viewport: { width: 390, height: 844 },
  deviceScaleFactor: 2,
  isMobile: true,
  hasTouch: true,
};

/** By how many pixels a page is wider than its window, and by which elements: for pages that must not scroll sideways. */
export function overflow(page: Page): Promise<{ by: number; elements: string[] }> {
  return page.evaluate(() => {
    const width = document.documentElement.clientWidth;
    const by = document.documentElement.scrollWidth - width;
    const elements: string[] = [];
    if (by > 0) {
      for (const e of document.querySelectorAll('body *')) {
        if (e.getBoundingClientRect().right > width + 1) elements.push(`${e.tagName} ${e.id} ${e.getAttribute('class') ?? ''}`.trim());
      }
    }
    return { by, elements: elements.slice(0, 10) };
  });
}

/** One answer of an Origin: text, or a directory whose files are served below the path. */
export type Served = string | { dir: string } | ((request: IncomingMessage, response: ServerResponse) => void);

/** An HTTP server on a free port of 127.0.0.1, of which the pages of a test come. */
export class Origin {
  private constructor(
    readonly url: string,
    private readonly end: () => Promise<void>,
  ) {}

  /**
   * Serves what is given by path; a path that ends in a slash stands for all below it. Text is
   * HTML. headers go with each answer, such as a Content-Security-Policy.
   */
  static async start(served: Record<string, Served>, headers: Record<string, string> = {}): Promise<Origin> {
    const server = createServer((request, response) => {
      const path = new URL(request.url ?? '/', 'http://origin').pathname;
      for (const [name, value] of Object.entries(headers)) response.setHeader(name, value);
      response.setHeader('Cache-Control', 'no-store');
      void answer(served, path, request, response).catch((error: unknown) => {
        response.writeHead(500).end(String(error));
      });
    });
    await new Promise<void>((done, failed) => {
      server.once('error', failed);
      server.listen(0, '127.0.0.1', done);
    });
    const { port } = server.address() as AddressInfo;
    return new Origin(`http://127.0.0.1:${port}`, () => {
      server.closeAllConnections();
      return new Promise((done) => server.close(() => done()));
    });
  }

  /** Its host and port, as a server's list of allowed origins has it. */
  get host(): string {
    return new URL(this.url).host;
  }

  close(): Promise<void> {
    return this.end();
  }
}

const kinds: Record<string, string> = {
  '.css': 'text/css',
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript',
  '.json': 'application/json',
  '.svg': 'image/svg+xml',
};

async function answer(served: Record<string, Served>, path: string, request: IncomingMessage, response: ServerResponse): Promise<void> {
  if (path === '/favicon.ico') {
    response.writeHead(204).end();
    return;
  }
  const name = path in served ? path : Object.keys(served).find((prefix) => prefix.endsWith('/') && prefix !== '/' && path.startsWith(prefix));
  const value = name === undefined ? undefined : served[name];
  if (name === undefined || value === undefined) {
    response.writeHead(404).end();
  } else if (typeof value === 'function') {
    value(request, response);
  } else if (typeof value === 'string') {
    response.writeHead(200, { 'Content-Type': kinds[extname(path)] ?? 'text/html; charset=utf-8' }).end(value);
  } else {
    const file = normalize(join(value.dir, decodeURIComponent(path.slice(name.length))));
    if (!file.startsWith(resolve(value.dir) + sep) && !file.startsWith(value.dir + sep)) {
      response.writeHead(404).end();
      return;
    }
    const text = await readFile(file).catch(() => undefined);
    if (text === undefined) response.writeHead(404).end();
    else response.writeHead(200, { 'Content-Type': kinds[extname(file)] ?? 'application/octet-stream' }).end(text);
  }
}

/** Waits until a condition holds, looked at again every 20 ms for at most patience; what is told when it never does. */
export async function until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  const end = Date.now() + patience;
  while (!(await holds())) {
    if (Date.now() > end) throw new Error(`still not: ${what}`);
    await new Promise((again) => setTimeout(again, 20));
  }
}
