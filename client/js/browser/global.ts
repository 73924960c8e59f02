// For globalSetup of vitest: one Chromium for all files of a run, each of which has profiles of its own.
import type { TestProject } from 'vitest/node';
import { findChromium, launch } from './harness.js';

export default async function setup(project: TestProject): Promise<(() => Promise<void>) | undefined> {
  if (!findChromium()) return undefined;
  const server = await launch();
  project.provide('chromium', server.wsEndpoint());
  return () => server.close();
}
