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

export default defineConfig([
  {
    ...common,
    dts: true,
    entry: ['src/index.ts', 'src/rows.ts', 'src/storage.ts', 'src/svelte.ts', 'src/react.ts', 'src/vue.ts'],
  },
  // Apart, because it runs apart: what it has in common with a page would only be split off there.
  { ...common, dts: false, clean: false, entry: ['src/worker.ts'], outputOptions: { codeSplitting: false } },
]);
