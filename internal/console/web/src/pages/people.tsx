import { useSignal } from '@preact/signals';
import { useEffect } from 'preact/hooks';
import type { CursorOf, Topic } from 'pgcast';
import { brief, count } from '../format.js';
import { Empty } from '../ui/parts.js';

type User = Record<string, unknown>;
const most = 200; // shown of those who are here

const nameOf = (key: string, user: User | undefined) => {
  const name = user?.name ?? user?.id;
  return typeof name === 'string' && name ? name : key;
};

function Person({ name, about }: { name: string; about: string }) {
  return (
    <li>
      <i class="face" aria-hidden="true">{[...name][0]?.toUpperCase() ?? '?'}</i>
      <span class="person">
        <b>{name}</b>
        <code>{about}</code>
      </span>
    </li>
  );
}

/** Who is here, and where their cursors are; both live. */
export function People({ topic }: { topic: Topic }) {
  const here = useSignal<ReadonlyMap<string, User>>(new Map());
  const cursors = useSignal<ReadonlyMap<string, CursorOf>>(new Map());
  useEffect(() => {
    const stops = [
      topic.presence.subscribe((value) => (here.value = value)),
      topic.cursors.subscribe((value) => (cursors.value = value)),
    ];
    return () => stops.forEach((stop) => stop());
  }, [topic]);
  const people = [...here.value];
  const pointers = [...cursors.value];
  return (
    <div class="people">
      <section aria-label="Present">
        <h3>Here now <span class="dim">{count(people.length)}</span></h3>
        {people.length ? (
          <ul>
            {people.slice(0, most).map(([key, user]) => <Person key={key} name={nameOf(key, user)} about={brief(user, 120)} />)}
            {people.length > most && <li class="dim">and {count(people.length - most)} more</li>}
          </ul>
        ) : (
          <Empty icon="sessions" title="Nobody is here">
            <p>Clients are present once they say so: <code>topic.presence.join()</code></p>
          </Empty>
        )}
      </section>
      <section aria-label="Cursors">
        <h3>Cursors <span class="dim">{count(pointers.length)}</span></h3>
        {pointers.length ? (
          <ul>
            {pointers.slice(0, most).map(([key, cursor]) => <Person key={key} name={nameOf(key, cursor.user)} about={brief(cursor.data, 120)} />)}
          </ul>
        ) : (
          <p class="dim">No cursors: <code>topic.cursors.move(data)</code> shows one.</p>
        )}
      </section>
    </div>
  );
}
