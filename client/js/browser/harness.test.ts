import { existsSync, statSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { findChromium, Origin, overflow, phone, shoot, TestBrowser, until } from './harness.js';

describe.skipIf(!findChromium())('the harness', () => {
  let browser: TestBrowser;
  let origin: Origin;
  beforeAll(async () => {
    browser = await TestBrowser.start();
    origin = await Origin.start({
      '/': '<!doctype html><title>good</title><p>hello',
      '/bad': '<!doctype html><script>console.error("broken"); null.x</script>',
      '/wide': '<!doctype html><meta name="viewport" content="width=device-width"><div id="w" style="width:900px;height:9px"></div>',
      '/client/': { dir: 'dist' },
    });
  });
  afterAll(async () => {
    await browser?.close();
    await origin?.close();
  });

  test('tells of what a page logs, throws and expects', async () => {
    const profile = await browser.profile();
    const page = await profile.newPage();
    await page.goto(origin.url);
    expect(browser.takeErrors()).toEqual([]);
    await page.goto(`${origin.url}/bad`);
    await until('both errors are told', () => browser.errors.length === 2);
    expect(browser.takeErrors().join('\n')).toMatch(/broken[^]*TypeError|TypeError[^]*broken/);
    browser.expect(page, /broken/, /TypeError/);
    await page.reload();
    expect(browser.takeErrors()).toEqual([]);
    await profile.close();
  });

  test('sees what is too wide for a phone, and keeps pictures', async () => {
    const profile = await browser.profile(phone);
    const page = await profile.newPage();
    await page.goto(`${origin.url}/wide`);
    const { by, elements } = await overflow(page);
    expect(by).toBeGreaterThan(400);
    expect(elements).toEqual(['DIV w']);
    const path = await shoot(page, 'harness');
    expect(existsSync(path) && statSync(path).size).toBeGreaterThan(1000);
    await profile.close();
  });

  test('serves files of a directory and nothing beside it', async () => {
    expect((await fetch(`${origin.url}/client/index.js`)).headers.get('Content-Type')).toBe('text/javascript');
    expect((await fetch(`${origin.url}/client/..%2fpackage.json`)).status).toBe(404);
    expect((await fetch(`${origin.url}/none`)).status).toBe(404);
  });
});
