import { defineConfig } from 'vitest/config';

// Tests in a real browser: `npm run test:browser`. All files share one pgcast dev and one Chromium. Much of
// what they do is to wait for pages, so that two files at a time are quicker than one.
export default defineConfig({
  test: {
    include: ['browser/**/*.test.ts'],
    globalSetup: ['test/harness/global.ts', 'browser/global.ts'],
    maxWorkers: 2,
    // CI, where much runs beside, tries once more what failed; it is named then.
    retry: process.env['PGCAST_TEST_RETRY'] ? 1 : 0,
    testTimeout: 180_000,
    hookTimeout: 180_000,
    teardownTimeout: 30_000,
  },
});
