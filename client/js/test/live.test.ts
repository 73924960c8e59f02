// Who is here, and what they point at.
import { expect, test } from 'vitest';
import { client, impatient, proxied } from './harness/client.js';
import { until } from './harness/server.js';
import { fresh, shared } from './harness/shared.js';

const calm = { ...impatient, silence: 30_000 };

test('presence: two see each other, also after a cut, until one leaves', async () => {
  const topic = fresh('presence');
  const proxy = await proxied();
  const [ann, bob] = [client(proxy.ws, calm).topic(topic).presence, client(shared.ws, calm).topic(topic).presence];
  const seen: string[] = [];
  bob.subscribe((users) => seen.push([...users.keys()].sort().join()));
  expect(await ann.join({ id: 'ann', name: 'Ann' })).toBe('ann');
  expect(await bob.join({ id: 'bob', name: 'Bob' })).toBe('bob');
  ann.subscribe(() => {});
  const both = () => [ann, bob].every((one) => [...one.get().keys()].sort().join() === 'ann,bob');
  await until('both to see both', both);
  expect(ann.get().get('bob')).toEqual({ id: 'bob', name: 'Bob' });
  expect(ann.get()).toBe(ann.get());
  expect(await bob.count()).toBe(2);

  const before = proxy.connections;
  proxy.cut();
  await until('another connection', () => proxy.connections > before);
  await until('both again', both);
  // Ann came back in time: nobody was told that she had gone.
  expect(seen.slice(seen.indexOf('ann,bob')).every((users) => users === 'ann,bob')).toBe(true);

  await ann.leave();
  await until('bob to be alone', () => [...bob.get().keys()].join() === 'bob');
  expect(await bob.count()).toBe(1);
  // Whoever left stays away, also after another cut.
  const then = proxy.connections;
  proxy.cut();
  await until('another connection', () => proxy.connections > then);
  expect(await ann.count()).toBe(1);
});

test('presence can be looked at without being there', async () => {
  const topic = fresh('looking');
  const here = client(shared.ws, calm).topic(topic).presence;
  const looking = client(shared.ws, calm).topic(topic).presence;
  let told = 0;
  const end = looking.subscribe(() => told++);
  await here.join({ id: 'ann' });
  await until('ann', () => looking.get().has('ann'));
  expect(await looking.count()).toBe(1);
  end();
  const count = told;
  await here.leave();
  await until('nobody', async () => (await looking.count()) === 0);
  expect(told).toBe(count);
});

test('cursors: the others\' are seen where they are, move, survive a cut, and go', async () => {
  const topic = fresh('board');
  const proxy = await proxied();
  const who = (id: string, url: string) => client(url, { ...calm, user: { id, name: id } }).topic(topic).cursors;
  const [ann, bob] = [who('ann', proxy.ws), who('bob', shared.ws)];
  const seen = () => [...bob.get().values()].map(({ user, data }) => ({ name: user?.name, data }));
  bob.subscribe(() => {});
  ann.subscribe(() => {});
  // A move is lost while there is no connection: it is made until it is seen, as a mouse would.
  const move = async (x: number) => {
    await until(`the cursor at ${x}`, () => {
      ann.move({ x, y: 1 });
      return (seen()[0]?.data as { x: number } | undefined)?.x === x;
    });
  };
  await move(1);
  await move(2);
  expect(seen()).toEqual([{ name: 'ann', data: { x: 2, y: 1 } }]);
  await until('bob to be seen', () => {
    bob.move({ x: 9 });
    return ann.get().size === 1;
  });
  const before = proxy.connections;
  proxy.cut();
  await until('another connection', () => proxy.connections > before);
  await move(3);
  await until('one cursor: the old session\'s has gone', () => seen().length === 1);
  await until('bob to be seen again', () => [...ann.get().values()].some(({ data }) => (data as { x: number }).x === 9));
  ann.leave();
  await until('ann to be gone', () => seen().length === 0);
});
