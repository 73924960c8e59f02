import { defineConfig } from 'vitest/config';

// Tests of the console in a real browser, against a real server: the harness is that of the
// client, whose packages have to be there as well (npm ci in client/js).
export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    globalSetup: ['../../../client/js/test/harness/global.ts'],
    fileParallelism: false,
    // CI, where much runs beside, tries once more what failed; it is named then.
    retry: process.env['PGCAST_TEST_RETRY'] ? 1 : 0,
    testTimeout: 240_000,
    hookTimeout: 90_000,
    teardownTimeout: 30_000,
  },
});
