import { defineConfig } from 'tsdown';

// The output is committed: the server embeds and serves it, and CI builds it anew and compares.
export default defineConfig({
  entry: ['src/index.ts', 'src/rows.ts', 'src/storage.ts', 'src/svelte.ts', 'src/react.ts', 'src/vue.ts', 'src/worker.ts'],
  format: 'esm',
  platform: 'neutral',
  target: 'es2022',
  dts: true,
  minify: true,
  hash: false,
  external: ['react', 'vue'],
  outExtensions: () => ({ js: '.js', dts: '.d.ts' }),
});
