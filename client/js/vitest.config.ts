import { defineConfig } from 'vitest/config';

// Two projects: unit tests need nothing; the others share one pgcast dev with its own Postgres.
export default defineConfig({
  test: {
    testTimeout: 180_000,
    hookTimeout: 120_000,
    teardownTimeout: 30_000,
    maxWorkers: 3,
    projects: [
      { extends: true, test: { name: 'unit', include: ['test/unit/**/*.test.ts'] } },
      {
        extends: true,
        test: {
          name: 'server',
          include: ['test/*.test.ts'],
          globalSetup: ['test/harness/global.ts'],
        },
      },
    ],
  },
});
