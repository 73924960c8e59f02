import { defineConfig } from 'vitest/config';

// Tests in a real browser: `npm run test:browser`. One file at a time, as browsers are heavy.
export default defineConfig({
  test: {
    include: ['browser/**/*.test.ts'],
    globalSetup: ['test/harness/global.ts'],
    fileParallelism: false,
    testTimeout: 180_000,
    hookTimeout: 180_000,
    teardownTimeout: 30_000,
  },
});
