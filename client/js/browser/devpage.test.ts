import type { Page } from 'playwright-core';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { fresh, shared, sql } from '../test/harness/shared.js';
import { findChromium, overflow, patience, phone, shoot, TestBrowser, until } from './harness.js';

// The page of pgcast dev, by real clicks. internal/devpage has its closer tests, in Go.
describe.skipIf(!findChromium())('the page of pgcast dev', () => {
  let browser: TestBrowser;
  const table = fresh('notes').replaceAll('.', '_');
  beforeAll(async () => {
    browser = await TestBrowser.start();
    await sql(`create table ${table} (id bigint generated always as identity primary key, body text not null)`);
    await sql(`select pgcast.attach('${table}'::regclass, 'notes:{id}')`);
  });
  afterAll(() => browser?.close());
  afterEach(() => expect(browser.takeErrors()).toEqual([]));

  const ready = async (page: Page): Promise<void> => {
    await page.goto(shared.url);
    await page.locator('#state[data-kind=live]').waitFor({ timeout: patience });
  };
  const run = async (page: Page, text: string): Promise<void> => {
    await page.getByRole('tab', { name: 'SQL' }).click();
    await page.getByLabel('SQL to run').fill(text);
    await page.getByRole('button', { name: /^Run/ }).first().click();
  };

  test.each(['light', 'dark'] as const)('%s: SQL that is run there appears, and a cut loses and doubles nothing', async (colorScheme) => {
    const profile = await browser.profile({ colorScheme, viewport: { width: 1360, height: 860 } });
    const page = await profile.newPage();
    await ready(page);
    await run(page, `insert into ${table} (body) values ('written by a click, ${colorScheme}')`);
    await page.locator('#rows').getByText(`written by a click, ${colorScheme}`).first().waitFor();
    await page.getByRole('button', { name: /Cut my wire/ }).click();
    await page.locator('#cut-result[data-kind=cut]').waitFor();
    for (let i = 1; i <= 5; i++) await sql(`insert into ${table} (body) values ($1)`, [`meanwhile ${i}, ${colorScheme}`]);
    expect(await page.locator('#rows').getByText('meanwhile 5, ' + colorScheme).count()).toBe(0);
    await page.locator('#cut-result[data-kind=good]').waitFor();
    for (let i = 1; i <= 5; i++) expect(await page.locator('#rows').getByText(`meanwhile ${i}, ${colorScheme}`).count()).toBe(1);
    expect(await page.locator('#missed').innerText()).toBe('0');
    expect(await page.locator('#doubled').innerText()).toBe('0');
    expect(await overflow(page)).toMatchObject({ by: 0 });
    await shoot(page, `devpage-${colorScheme}`);
    await profile.close();
  });

  test.each(['light', 'dark'] as const)('%s: it can be used on a phone', async (colorScheme) => {
    const profile = await browser.profile({ ...phone, colorScheme });
    const page = await profile.newPage();
    await ready(page);
    await run(page, `insert into ${table} (body) values ('written on a phone, ${colorScheme}')`);
    await until('the answer is there', async () => (await page.locator('#result').innerText()).length > 0);
    expect(await overflow(page)).toMatchObject({ by: 0 });
    await page.getByRole('tab', { name: 'Stream' }).click();
    await page.locator('#rows').getByText(`written on a phone, ${colorScheme}`).first().waitFor();
    expect(await overflow(page)).toMatchObject({ by: 0 });
    await shoot(page, `devpage-phone-${colorScheme}`);
    await profile.close();
  });
});
