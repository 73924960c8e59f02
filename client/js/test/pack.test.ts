// What npm would publish: what is in it, and that it can be used.
import { execFile } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect, onTestFinished, test } from 'vitest';
import { fresh, shared } from './harness/shared.js';

const run = promisify(execFile);
const dir = fileURLToPath(new URL('..', import.meta.url));
const manifest = JSON.parse(readFileSync(join(dir, 'package.json'), 'utf8')) as {
  exports: Record<string, string | { types: string; default: string }>;
  dependencies?: unknown;
};

async function pack(...args: string[]): Promise<{ filename: string; files: { path: string }[] }> {
  const { stdout } = await run('npm', ['pack', '--json', '--ignore-scripts', '--offline', ...args], { cwd: dir });
  return (JSON.parse(stdout) as [{ filename: string; files: { path: string }[] }])[0];
}

test('npm publishes the built modules with their types, and nothing else', async () => {
  const { files } = await pack('--dry-run');
  const built = readdirSync(join(dir, 'dist')).filter((name) => /\.(js|d\.ts)$/.test(name)).map((name) => `dist/${name}`);
  const also = ['package.json', ...['README.md', 'LICENSE'].filter((name) => existsSync(join(dir, name)))];
  expect(files.map(({ path }) => path).sort()).toEqual([...built, ...also].sort());
  expect(manifest.dependencies).toBeUndefined();
  const paths = new Set(files.map(({ path }) => `./${path}`));
  for (const [name, target] of Object.entries(manifest.exports)) {
    for (const path of typeof target === 'string' ? [target] : Object.values(target)) expect(paths, name).toContain(path);
  }
});

test('the packed package is installed and used: every export, and events from a real server', async () => {
  const scratch = mkdtempSync(join(tmpdir(), 'pgcast-pack-'));
  onTestFinished(() => rmSync(scratch, { recursive: true, force: true }));
  const { filename } = await pack('--pack-destination', scratch);
  const modules = join(scratch, 'node_modules');
  mkdirSync(join(modules, 'pgcast'), { recursive: true });
  await run('tar', ['xzf', join(scratch, filename), '-C', join(modules, 'pgcast'), '--strip-components', '1']);
  // What an app has besides.
  for (const name of ['react', 'svelte', 'vue', '@vue', 'ws', 'esm-env', 'clsx']) {
    if (existsSync(join(dir, 'node_modules', name))) symlinkSync(join(dir, 'node_modules', name), join(modules, name));
  }
  const names = Object.keys(manifest.exports).filter((name) => name !== './package.json').map((name) => name.replace(/^\./, 'pgcast'));
  writeFileSync(
    join(scratch, 'app.mjs'),
    `import { connect } from 'pgcast';
     import WebSocket from 'ws';
     const has = {};
     for (const name of ${JSON.stringify(names)}) has[name] = Object.keys(await import(name));
     const rt = connect(process.argv[2], { WebSocket });
     const topic = rt.topic(process.argv[3], { after: 0 });
     await topic.publish('hello', { from: 'npm' });
     for await (const event of topic.events()) {
       console.log(JSON.stringify({ has, data: event.data }));
       break;
     }
     rt.close();`,
  );
  const { stdout } = await run(process.execPath, ['app.mjs', shared.ws, fresh('pack')], { cwd: scratch, timeout: 60_000 });
  const { has, data } = JSON.parse(stdout) as { has: Record<string, string[]>; data: unknown };
  expect(data).toEqual({ from: 'npm' });
  expect(has['pgcast']).toEqual(expect.arrayContaining(['connect', 'RealtimeError']));
  expect(has['pgcast/rows']).toContain('rows');
  expect(has['pgcast/storage']).toEqual(expect.arrayContaining(['indexedDBStorage', 'memoryStorage']));
});
