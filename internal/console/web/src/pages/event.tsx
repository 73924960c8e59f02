import { useSignal } from '@preact/signals';
import type { EventItem } from 'pgcast';
import { ago, brief, count, exact, now, writtenAt } from '../format.js';
import { Badge, Choice, Code, Copy } from '../ui/parts.js';
import { diff, type Diff } from './diff.js';
import { Tree } from './json.js';
import { tone } from './stream.js';

const text = (value: unknown) => (typeof value === 'string' ? value : brief(value, 2000));
const words = { same: 'unchanged', changed: 'changed', added: 'new', removed: 'was', unknown: 'unknown before' } as const;

function Changes({ of, event, earlier }: { of: Diff; event: EventItem; earlier: EventItem | undefined }) {
  const all = useSignal(false);
  const same = of.changes.filter((c) => c.kind === 'same').length;
  const shown = all.value ? of.changes : of.changes.filter((c) => c.kind !== 'same');
  const created = event.event === 'created';
  return (
    <div class="diff">
      {of.missing && (
        <p class="hint">
          The old values of some columns are not known: the table is attached without <code>old</code>. Attach it with old values to see every change.
        </p>
      )}
      {earlier && <p class="hint">Old values that the event does not carry are those of event {count(earlier.seq)}, the row’s one before.</p>}
      <table>
        <thead>
          <tr>
            <th scope="col">Column</th>
            {!created && <th scope="col">Old</th>}
            <th scope="col">New</th>
          </tr>
        </thead>
        <tbody>
          {shown.map((c) => (
            <tr key={c.column} class={c.kind}>
              <th scope="row">
                {c.column}
                <span class="hidden">, {words[c.kind]}</span>
              </th>
              {!created && <td>{c.kind === 'unknown' ? <span class="dim">not captured</span> : c.kind === 'added' ? '' : <del>{text(c.before)}</del>}</td>}
              <td>{c.kind === 'removed' ? '' : <ins>{text(c.after)}</ins>}</td>
            </tr>
          ))}
          {!shown.length && (
            <tr>
              <td colSpan={3} class="dim">No column has another value</td>
            </tr>
          )}
        </tbody>
      </table>
      {same > 0 && (
        <button type="button" class="small quiet" onClick={() => (all.value = !all.value)}>
          {all.value ? 'Only what changed' : `${count(same)} unchanged`}
        </button>
      )}
    </div>
  );
}

/** One event: what it says, and what it changed. */
export function EventView({ event, earlier, step }: {
  event: EventItem;
  /** The row's event before, if it is known. */
  earlier: EventItem | undefined;
  step?: (by: number) => void;
}) {
  const captured = event.old && Object.keys(event.old).length > Object.keys(event.old).filter((k) => Object.hasOwn(event.data ?? {}, k) && (event.data as Record<string, unknown>)[k] === event.old![k]).length;
  const used = event.event === 'updated' && !captured ? earlier : undefined;
  const change = event.oversize ? undefined : diff(event.event, event.data, event.old, used?.data);
  const view = useSignal<'changes' | 'data' | 'raw'>(event.event === 'updated' && change ? 'changes' : 'data');
  const now_ = writtenAt(event.id);
  const { type: _, place: __, ...frame } = event;
  const raw = JSON.stringify(frame, null, 2);
  const views = [
    ...(change && event.event !== 'created' ? ([['changes', 'Changes']] as const) : []),
    ['data', 'Data'] as const,
    ['raw', 'Event'] as const,
  ];
  const current = views.some(([name]) => name === view.value) ? view.value : 'data';
  return (
    <div class="event-view">
      <dl class="facts">
        <div>
          <dt>Event</dt>
          <dd>
            <Badge tone={tone(event.event)}>{event.event}</Badge>
          </dd>
        </div>
        <div>
          <dt>Seq</dt>
          <dd class="seq-step">
            {step && <button type="button" class="icon-button" aria-label="The event before" onClick={() => step(1)}>‹</button>}
            <b>{count(event.seq)}</b>
            {step && <button type="button" class="icon-button" aria-label="The event after" onClick={() => step(-1)}>›</button>}
          </dd>
        </div>
        <div>
          <dt>Written</dt>
          <dd title={now_ === undefined ? '' : exact(now_)}>{now_ === undefined ? '–' : ago(now_, now.value)}</dd>
        </div>
        <div class="fact-id">
          <dt>Id</dt>
          <dd>
            <code>{event.id}</code>
          </dd>
        </div>
      </dl>
      <div class="event-tools">
        <Choice label="What to show" value={current} set={(v) => (view.value = v)} of={views} />
        <Copy text={current === 'raw' ? raw : JSON.stringify(event.data ?? null, null, 2)} what={current === 'raw' ? 'the event' : 'the data'} />
      </div>
      {event.oversize ? (
        <>
          <p class="hint">The event is larger than the server’s limit for frames. Postgres has it whole:</p>
          <Code what="SQL" text={`select data from pgcast.history\n where topic = '${event.topic.replaceAll("'", "''")}' and seq = ${event.seq};`} />
        </>
      ) : current === 'changes' && change ? (
        <Changes of={change} event={event} earlier={used} />
      ) : (
        <div class="json" tabIndex={0} role="region" aria-label={current === 'raw' ? 'The event as JSON' : 'The data as JSON'}>
          {current === 'raw' ? <pre>{raw}</pre> : <Tree value={event.data ?? null} />}
        </div>
      )}
    </div>
  );
}
