// What servers do to clients: they die, come back, and drain.
import { expect, onTestFinished, test } from 'vitest';
import { client, impatient, items, own, patient, seqs, subscribed, upTo } from './harness/client.js';
import { pause, serve, until, type Server } from './harness/server.js';
import { fresh } from './harness/shared.js';

/** Publishes 1, 2, 3 … by SQL until told to stop; whether a server runs does not matter to it. */
async function write(server: Server, topic: string, done: () => boolean): Promise<number> {
  for (let n = 1; ; n++) {
    await server.sql(`select pgcast.publish($1, 'n', jsonb_build_object('n', $2::int))`, [topic, n]);
    if (done()) return n;
    await pause(5);
  }
}

test('a server that is killed by SIGKILL costs nothing, nor does each publish that was under way', async () => {
  const server = await own('--drain-timeout', '1s');
  const topic = fresh('killed');
  const rt = client(server.ws, { ...impatient, silence: 30_000 });
  const heard = items(rt.topic(topic, { after: 0 }));
  const said = items(rt.topic('said', { after: 0 }));
  await subscribed(heard);
  let done = false;
  const writing = write(server, topic, () => done);
  const publishing = (async () => {
    const ids: string[] = [];
    for (let n = 0; !done; n++) ids.push((await rt.topic('said', { after: 0 }).publish('said', n)).id);
    return ids;
  })();
  for (let kills = 0; kills < 2; kills++) {
    const seen = heard.length;
    await until('some events', () => heard.length > seen + 20);
    await server.kill();
    await server.start();
  }
  const seen = heard.length;
  await until('some more', () => heard.length > seen + 20);
  done = true;
  const [last, ids] = await Promise.all([writing, publishing]);
  await until('everything', () => seqs(heard).at(-1) === last && seqs(said).at(-1) === ids.length);
  expect(seqs(heard)).toEqual(upTo(last));
  expect(said.flatMap((item) => (item.type === 'event' ? [item.id] : []))).toEqual(ids);
  expect(said.flatMap((item) => (item.type === 'event' ? [item.data] : []))).toEqual(upTo(ids.length - 1, 0));
});

test('a server that drains says when to come back; another one takes over', async () => {
  const first = await own('--drain-timeout', '1s');
  const topic = fresh('drained');
  const rt = client(first.ws, { ...patient, transport: 'websocket' });
  const heard = items(rt.topic(topic, { after: 0 }));
  await subscribed(heard);
  const retries: number[] = [];
  rt.status.subscribe(({ state, retryAt }) => {
    if (state === 'connecting' && retryAt) retries.push(retryAt - Date.now());
  });
  // A second server on the same database gives events their places meanwhile.
  const second = await serve(first, ['--drain-timeout', '1s'], first.databaseURL);
  onTestFinished(() => second.stop());
  let done = false;
  const writing = write(second, topic, () => done);
  await first.end('SIGTERM');
  await first.start();
  const seen = heard.length;
  await until('it to go on', () => heard.length > seen + 20);
  done = true;
  const last = await writing;
  await until('everything', () => seqs(heard).at(-1) === last);
  expect(seqs(heard)).toEqual(upTo(last));
  expect(retries.length).toBeGreaterThan(0);
});
