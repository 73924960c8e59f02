import { defineConfig, type UserConfig } from 'tsdown';

// The output is committed: the server embeds and serves it, and CI builds it anew and compares.
const common: UserConfig = {
  format: 'esm',
  platform: 'neutral',
  target: 'es2022',
  minify: true,
  hash: false,
  deps: { neverBundle: ['react', 'vue'] },
  outExtensions: () => ({ js: '.js', dts: '.d.ts' }),
};

/** What every page needs: one chunk, as several small ones are larger together. */
const core = /src\/(index|connect|address|backoff|dial|error|following|frames|lane|late|lazy|names|queue|store|subscription|topic)\.ts$/;

export default defineConfig([
  {
    ...common,
    dts: true,
    entry: ['src/index.ts', 'src/rows.ts', 'src/storage.ts', 'src/svelte.ts', 'src/react.ts', 'src/vue.ts'],
    // It is the module that apps import too; what the other modules need of it, it exports beside.
    inputOptions: { preserveEntrySignatures: 'allow-extension' },
    outputOptions: { codeSplitting: { groups: [{ name: 'index', test: core }] } },
  },
  // Apart, because it runs apart: what it has in common with a page would only be split off there.
  { ...common, dts: false, clean: false, entry: ['src/worker.ts'], outputOptions: { codeSplitting: false } },
]);
