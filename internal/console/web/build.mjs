// Builds the console into ../dist (or the directory named by the first argument): the same bytes
// from the same sources, for they are committed. It uses the shipped client, client/js/dist.
import { build } from 'esbuild';
import { cp, mkdir, readFile, readdir, rm } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';

const here = dirname(fileURLToPath(import.meta.url));
const out = resolve(process.argv[2] ?? join(here, '../dist'));
const limit = 60 * 1024; // of what every page loads, gzipped

await rm(out, { recursive: true, force: true });
await mkdir(out, { recursive: true });
const built = await build({
  absWorkingDir: here,
  entryPoints: { app: 'src/main.tsx', theme: 'src/theme-first.ts' },
  outdir: out,
  bundle: true,
  format: 'esm',
  splitting: true,
  chunkNames: '[name]-[hash]',
  metafile: true,
  target: 'es2022',
  minify: true,
  legalComments: 'none',
  jsx: 'automatic',
  jsxImportSource: 'preact',
  alias: { pgcast: resolve(here, '../../../client/js/dist/index.js') },
  logLevel: 'warning',
});
await cp(join(here, 'src/index.html'), join(out, 'index.html'));
await cp(join(here, 'src/icon.svg'), join(out, 'icon.svg'));

// What is loaded when it is needed (charts, other transports of the client) is not part of each page.
const outputs = Object.entries(built.metafile.outputs).map(([path, output]) => [basename(path), output]);
const always = new Set(['index.html', 'icon.svg', 'theme.js', 'app.css']);
const follow = (name) => {
  if (always.has(name)) return;
  always.add(name);
  const output = outputs.find(([other]) => other === name)?.[1];
  for (const { path, kind } of output?.imports ?? []) if (kind === 'import-statement') follow(basename(path));
};
follow('app.js');

let sum = 0;
for (const name of (await readdir(out)).sort()) {
  const bytes = await readFile(join(out, name));
  const zipped = gzipSync(bytes, { level: 9 }).length;
  if (always.has(name)) sum += zipped;
  const when = always.has(name) ? '' : ', when needed';
  console.log(`${name.padEnd(24)} ${String(bytes.length).padStart(8)} B ${String(zipped).padStart(8)} B gzipped${when}`);
}
console.log(`${'every page'.padEnd(24)} ${String(sum).padStart(19)} B gzipped, of at most ${limit}`);
if (sum > limit) {
  console.error('The console has become too large: what every page loads must stay below the limit.');
  process.exitCode = 1;
}
