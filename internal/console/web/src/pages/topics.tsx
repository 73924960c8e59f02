import { useSignal } from '@preact/signals';
import { useEffect } from 'preact/hooks';
import type { Retention, TopicLine, Topics as Answer } from '../api.js';
import { count, rate } from '../format.js';
import { read, wordsOf } from '../http.js';
import { usePoll } from '../poll.js';
import { link, route, setQuery } from '../router.js';
import { Badge, type Column, Empty, Head, List, Problem, Search, When } from '../ui/parts.js';
import { say } from '../ui/dialog.js';

/** How long events of a topic are kept, in words. */
export function keptWords(r: Retention): string {
  const parts = [r.maxAge, r.maxCount === null ? '' : `${count(r.maxCount)} events`].filter(Boolean);
  return parts.length ? parts.join(', ') : 'for ever';
}

const columns: Column<TopicLine>[] = [
  { name: 'Topic', main: true, cell: (t) => <a class="name" href={link('topics', t.name)}>{t.name}</a> },
  { name: 'Rate', number: true, cell: (t) => (t.rate > 0 ? <span class="lively">{rate(t.rate)}/s</span> : <span class="dim">0/s</span>) },
  { name: 'Subscribers', number: true, cell: (t) => (t.subscribers ? count(t.subscribers) : <span class="dim">0</span>) },
  { name: 'Head', number: true, cell: (t) => count(t.head) },
  { name: 'Tail', number: true, cell: (t) => <span class={t.tail > 1 ? '' : 'dim'}>{count(t.tail)}</span> },
  { name: 'Kept', cell: (t) => <span title={t.retention.pattern ? `by the rule for ${t.retention.pattern}` : 'by the default'}>{keptWords(t.retention)}</span> },
  { name: 'Newest', cell: (t) => <When at={t.newest} /> },
];

/** All topics, by name. */
export function Topics() {
  const search = route.value.query.get('search') ?? '';
  const first = usePoll<Answer>(`topics?limit=100&search=${encodeURIComponent(search)}`, 3000);
  const rest = useSignal<TopicLine[]>([]);
  const next = useSignal<string | undefined>(undefined);
  const busy = useSignal(false);

  useEffect(() => {
    rest.value = [];
    next.value = undefined;
  }, [search]);

  const answer = first.data.value;
  const after = next.value ?? answer?.next ?? '';
  const more = async () => {
    busy.value = true;
    try {
      const page = await read<Answer>(`topics?limit=100&search=${encodeURIComponent(search)}&after=${encodeURIComponent(after)}`);
      if ((route.value.query.get('search') ?? '') !== search) return; // an answer to a search of before
      rest.value = [...rest.value, ...page.topics];
      next.value = page.next;
    } catch (error) {
      say(wordsOf(error).message, 'bad');
    } finally {
      busy.value = false;
    }
  };
  // Once more pages are shown, the first must not grow into them.
  const rows = answer && [...answer.topics, ...rest.value.filter((t) => t.name > (answer.topics.at(-1)?.name ?? ''))];
  return (
    <>
      <Head title="Topics" about="Named, ordered streams of events, with all that is kept of them">
        <Search label="Search topics" value={search} set={(v) => setQuery('search', v)} />
      </Head>
      <Problem error={first.error.value} again={first.refresh} />
      {rows && !rows.length ? (
        search ? (
          <Empty icon="search" title={`No topic has “${search}” in its name`}>
            <button type="button" onClick={() => setQuery('search', '')}>Show all</button>
          </Empty>
        ) : (
          <Empty icon="topics" title="No topics yet">
            <p>A topic is there with its first event. Attach a table, or publish something.</p>
            <a class="button primary" href={link('tables')}>Attach a table</a>
          </Empty>
        )
      ) : (
        <List label="Topics" rows={rows} columns={columns} id={(t) => t.name} />
      )}
      {rows && !!rows.length && (
        <p class="list-foot">
          <span class="dim">{count(rows.length)} shown{after ? '' : ', that is all'}</span>
          {after && (
            <button type="button" onClick={more} disabled={busy.value}>
              {busy.value ? 'Loading…' : 'Show more'}
            </button>
          )}
          {search && <Badge>search: {search}</Badge>}
        </p>
      )}
    </>
  );
}
