import { expect, test } from 'vitest';
import { dev, serve, until } from './harness/server.js';
import { fresh, shared, sql } from './harness/shared.js';

test('the shared server is there, with a database of its own', async () => {
  const topic = fresh('room');
  await sql(`select pgcast.publish($1, 'hello', '{"by": 1}')`, [topic]);
  const page = await until('the event', async () => {
    const answer = await fetch(`${shared.url}/topics/${topic}/events`);
    const body = (await answer.json()) as { events: { event: string; seq: number }[] };
    return body.events.length && body.events;
  });
  expect(page).toMatchObject([{ event: 'hello', seq: 1 }]);
});

test('a server of its own can be killed and comes back at the same address', async () => {
  const server = await serve(shared, ['--drain-timeout', '1s']);
  const { url, pid } = server;
  await server.kill();
  await expect(fetch(`${url}/healthz`)).rejects.toThrow();
  await server.start();
  expect(server.url).toBe(url);
  expect(server.pid).not.toBe(pid);
  expect((await fetch(`${url}/healthz`)).ok).toBe(true);
  await server.stop();
  await expect(fetch(`${url}/healthz`)).rejects.toThrow();
});

test('a server that cannot start fails with what it said, and leaves nothing behind', async () => {
  await expect(dev('--no-such-flag')).rejects.toThrow(/no-such-flag/);
});
