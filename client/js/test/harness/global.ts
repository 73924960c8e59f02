// For globalSetup of vitest: one pgcast dev for all files of a run.
import type { TestProject } from 'vitest/node';
import { binary, dev, type Address } from './server.js';

declare module 'vitest' {
  interface ProvidedContext {
    dev: Address;
  }
}

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const bin = binary();
  try {
    const server = await dev();
    const { url, ws, admin, databaseURL } = server;
    project.provide('dev', { url, ws, admin, databaseURL });
    return async () => {
      try {
        await server.stop();
      } finally {
        bin.remove();
      }
    };
  } catch (err) {
    bin.remove();
    throw err;
  }
}
