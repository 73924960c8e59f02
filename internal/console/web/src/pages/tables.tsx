import { useSignal } from '@preact/signals';
import type { Drift, Order, Plan, Table, Tables as Answer } from '../api.js';
import { compact, count } from '../format.js';
import { send, wordsOf } from '../http.js';
import { usePoll } from '../poll.js';
import { link, route, setQuery } from '../router.js';
import { say } from '../ui/dialog.js';
import { Icon } from '../ui/icons.js';
import { Badge, Choice, Code, type Column, Empty, Head, List, Problem, Search } from '../ui/parts.js';
import { Attach, Detach } from './attach.js';

/** The page of a template: its topic, or a search for what it makes. */
function topicLink(template: string): string {
  const brace = template.indexOf('{');
  return brace < 0 ? link('topics', template) : `${link('topics')}?search=${encodeURIComponent(template.slice(0, brace))}`;
}

function DriftList({ drift }: { drift: readonly Drift[] }) {
  if (!drift.length) return null;
  const byTable = new Map<string, Drift[]>();
  for (const d of drift) byTable.set(d.table, [...(byTable.get(d.table) ?? []), d]);
  return (
    <section class="card drift" aria-label="Drift">
      <header>
        <h2>
          <Icon name="warn" /> Drift
        </h2>
        <p class="dim">These tables are not captured as they should be. The statements mend it.</p>
      </header>
      {[...byTable].map(([table, of]) => (
        <article key={table}>
          <h3>{table}</h3>
          <ul>
            {of.map((d) => <li key={d.problem}>{d.problem}</li>)}
          </ul>
          {of.some((d) => d.mend) && (
            <Code text={of.map((d) => d.mend && `${d.mend.replace(/;\s*$/, '')};`).filter(Boolean).join('\n')} what={`what mends ${table}`} />
          )}
        </article>
      ))}
    </section>
  );
}

/** The tables of the database: which of them are captured, and how. */
export function Tables() {
  const { data, error, refresh } = usePoll<Answer>('tables', 5000);
  const search = route.value.query.get('search') ?? '';
  const which = useSignal<'all' | 'attached' | 'other'>('all');
  const attaching = useSignal<Table | undefined>(undefined);
  const detaching = useSignal<{ order: Order; plan: Plan } | undefined>(undefined);
  const answer = data.value;
  const drifted = new Map(answer?.drift.map((d) => [d.table, d]));
  const detach = async (table: Table) => {
    const order: Order = { action: 'detach', table: table.name };
    try {
      detaching.value = { order, plan: await send<Plan>('tables/plan', order) };
    } catch (reason) {
      const { message, hint } = wordsOf(reason);
      say(hint ? `${message}: ${hint}` : message, 'bad');
    }
  };
  const rows = answer?.tables.filter(
    (t) =>
      t.name.toLowerCase().includes(search.toLowerCase()) &&
      (which.value === 'all' || (which.value === 'attached') === (t.attached !== null)),
  );
  const columns: Column<Table>[] = [
    { name: 'Table', main: true, cell: (t) => <span class="name">{t.name}</span> },
    { name: 'State', cell: (t) =>
      drifted.has(t.name) ? <Badge tone="warn" title={drifted.get(t.name)?.problem}>drifted</Badge>
        : t.attached ? <Badge tone="good">attached</Badge> : <span class="dim">not attached</span> },
    { name: 'Topic', wide: true, cell: (t) => (t.attached ? <a class="name" href={topicLink(t.attached.topic)}>{t.attached.topic}</a> : <span class="dim">–</span>) },
    { name: 'Captured', cell: (t) =>
      t.attached ? (
        <span class="badges">
          <span>{t.attached.columns.length ? `${t.attached.columns.length} of ${t.columns.length} columns` : 'all columns'}</span>
          {t.attached.old && <Badge>old values</Badge>}
          {t.attached.capture === 'wal' && <Badge>WAL</Badge>}
          {t.attached.enforced && <Badge>row security</Badge>}
        </span>
      ) : <span class="dim">–</span> },
    { name: 'Key', cell: (t) => (t.key.length ? <code>{t.key.join(', ')}</code> : <span class="dim">none</span>) },
    { name: 'Rows', number: true, cell: (t) => <span title={`about ${count(t.rows)}, as Postgres estimates`}>{t.rows < 0 ? '–' : `~${compact(t.rows)}`}</span> },
    { name: '', cell: (t) => (
      <span class="row-actions">
        {t.attached ? (
          <>
            <button type="button" class="small" onClick={() => (attaching.value = t)} aria-label={`Change how ${t.name} is attached`}>Change</button>
            <button type="button" class="small" onClick={() => void detach(t)} aria-label={`Detach ${t.name}`}>Detach</button>
          </>
        ) : (
          <button type="button" class="small" onClick={() => (attaching.value = t)} aria-label={`Attach ${t.name}`}>Attach</button>
        )}
      </span>
    ) },
  ];
  return (
    <>
      <Head title="Tables" about="Writes of attached tables become events">
        <Choice label="Which tables" value={which.value} set={(v) => (which.value = v)} of={[['all', 'All'], ['attached', 'Attached'], ['other', 'Others']]} />
        <Search label="Search tables" value={search} set={(v) => setQuery('search', v)} />
      </Head>
      <Problem error={error.value} again={refresh} />
      <DriftList drift={answer?.drift ?? []} />
      {rows && !rows.length ? (
        <Empty icon="tables" title={answer?.tables.length ? 'No table like that' : 'There are no tables'}>
          {answer?.tables.length ? (
            <button type="button" onClick={() => { setQuery('search', ''); which.value = 'all'; }}>Show all</button>
          ) : (
            <p>Create one in this database, and it can be attached here.</p>
          )}
        </Empty>
      ) : (
        <List label="Tables" rows={rows} columns={columns} id={(t) => t.name} />
      )}
      {attaching.value && <Attach table={attaching.value} close={() => (attaching.value = undefined)} done={() => void refresh()} />}
      {detaching.value && (
        <Detach {...detaching.value} close={() => (detaching.value = undefined)} done={() => void refresh()} />
      )}
    </>
  );
}
