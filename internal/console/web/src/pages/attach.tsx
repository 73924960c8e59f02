import { useSignal } from '@preact/signals';
import { useRef } from 'preact/hooks';
import type { Order, Plan, Table } from '../api.js';
import { send } from '../http.js';
import { Dialog, say } from '../ui/dialog.js';
import { Choice, Code, Problem } from '../ui/parts.js';
import { pieces, templateProblem } from './template.js';

/** Shows what would be run, and runs it when it is told to. */
function Confirm({ order, plan, close, back, done }: {
  order: Order;
  plan: Plan;
  close: () => void;
  back?: () => void;
  done: () => void;
}) {
  const busy = useSignal(false);
  const error = useSignal<unknown>(undefined);
  const detach = order.action === 'detach';
  const run = async () => {
    busy.value = true;
    error.value = undefined;
    try {
      await send<Plan>('tables/run', order);
      say(detach ? `${order.table} is detached` : `${order.table} is attached`);
      close();
      done();
    } catch (reason) {
      error.value = reason;
      busy.value = false;
    }
  };
  return (
    <>
      <div class="dialog-inside">
        {plan.barred ? (
          <div class="problem warn" role="status">
            <div>
              <strong>This server’s role may not run it</strong>
              <p>{plan.barred} Run the call as a role that may:</p>
            </div>
          </div>
        ) : detach ? (
          <p>
            Writes of <b>{order.table}</b> become events no longer. What is in the log stays, and the table itself is not touched.
          </p>
        ) : null}
        <h3>The call</h3>
        <Code text={plan.call.trim().endsWith(';') ? plan.call : `${plan.call};`} what="the call" />
        {!!plan.statements.length && (
          <details open={!plan.barred}>
            <summary>What it runs: {plan.statements.length} {plan.statements.length === 1 ? 'statement' : 'statements'}</summary>
            <Code text={plan.statements.map((s) => (s.trim().endsWith(';') ? s : `${s};`)).join('\n\n')} what="the statements" />
          </details>
        )}
        <Problem error={error.value} />
      </div>
      <footer class="dialog-foot">
        {back && (
          <button type="button" onClick={back}>
            Back
          </button>
        )}
        <button type="button" onClick={close}>
          {plan.barred ? 'Close' : 'Cancel'}
        </button>
        {!plan.barred && (
          <button type="button" class={detach ? 'danger' : 'primary'} data-run onClick={run} disabled={busy.value}>
            {busy.value ? 'Running…' : detach ? 'Detach' : 'Run'}
          </button>
        )}
      </footer>
    </>
  );
}

/** Detaches a table, after it has shown what that does. */
export function Detach({ order, plan, close, done }: { order: Order; plan: Plan; close: () => void; done: () => void }) {
  return (
    <Dialog title={`Detach ${order.table}`} close={close} kind="wide">
      <Confirm order={order} plan={plan} close={close} done={done} />
    </Dialog>
  );
}

/** Asks how a table is to be attached, shows the SQL, and runs it. */
export function Attach({ table, close, done }: { table: Table; close: () => void; done: () => void }) {
  const before = table.attached;
  const topic = useSignal(before?.topic ?? `${table.name.replace(/^public\./, '').replaceAll('"', '')}`);
  const columns = useSignal<readonly string[]>(before?.columns.length ? before.columns : table.columns);
  const old = useSignal(before?.old ?? false);
  const capture = useSignal<'trigger' | 'wal'>(before?.capture ?? 'trigger');
  const planned = useSignal<{ order: Order; plan: Plan } | undefined>(undefined);
  const busy = useSignal(false);
  const error = useSignal<unknown>(undefined);
  const field = useRef<HTMLInputElement>(null);
  const all = columns.value.length === table.columns.length;
  const problem = templateProblem(topic.value, table);

  const plan = async () => {
    if (problem || !columns.value.length) return;
    const order: Order = { action: 'attach', table: table.name, old: old.value, capture: capture.value };
    if (topic.value) order.topic = topic.value;
    if (!all) order.columns = table.columns.filter((c) => columns.value.includes(c));
    busy.value = true;
    error.value = undefined;
    try {
      planned.value = { order, plan: await send<Plan>('tables/plan', order) };
    } catch (reason) {
      error.value = reason;
    }
    busy.value = false;
  };
  const insert = (column: string) => {
    const input = field.current!;
    const at = input.selectionStart ?? topic.value.length;
    const before = topic.value.slice(0, at);
    const glue = before && !before.endsWith(':') ? ':' : '';
    topic.value = `${before}${glue}{${column.replaceAll('}', '}}')}}${topic.value.slice(input.selectionEnd ?? at)}`;
    input.focus();
  };
  const toggle = (column: string) => {
    columns.value = columns.value.includes(column) ? columns.value.filter((c) => c !== column) : [...columns.value, column];
  };
  const title = before ? `Attach ${table.name} anew` : `Attach ${table.name}`;
  if (planned.value) {
    return (
      <Dialog title={title} close={close} kind="wide">
        <Confirm order={planned.value.order} plan={planned.value.plan} close={close} done={done} back={() => (planned.value = undefined)} />
      </Dialog>
    );
  }
  return (
    <Dialog title={title} close={close} kind="wide">
      <form class="dialog-form" noValidate
        onSubmit={(e) => {
          e.preventDefault();
          void plan();
        }}>
        <div class="dialog-inside">
          <label class="field">
            <span>Topic</span>
            <input ref={field} data-first name="topic" class="mono" value={topic.value} onInput={(e) => (topic.value = e.currentTarget.value)}
              autocomplete="off" spellcheck={false} aria-invalid={!!problem} aria-describedby="topic-preview topic-problem" />
          </label>
          <div class="placeholders" role="group" aria-label="Columns to put into the topic">
            {table.columns.slice(0, 24).map((column) => (
              <button key={column} type="button" class="chip" onClick={() => insert(column)}>
                {`{${column}}`}
              </button>
            ))}
          </div>
          <p id="topic-problem" class="field-error" role="alert">{problem}</p>
          <p id="topic-preview" class="preview">
            <span class="dim">A row goes to </span>
            <code>
              {pieces(topic.value || table.name, table.columns).map((p, i) =>
                p.column ? (
                  <mark key={i} class={p.known ? '' : 'bad'}>{p.known ? `‹${p.text}›` : `‹${p.text || '?'}: no such column›`}</mark>
                ) : (
                  <span key={i}>{p.text}</span>
                ),
              )}
            </code>
            {pieces(topic.value, table.columns).some((p) => p.column)
              ? <span class="dim">: a topic for each value</span>
              : <span class="dim">: one topic for all rows</span>}
          </p>
          <fieldset>
            <legend>Columns {all ? <span class="dim">all</span> : <span class="dim">{columns.value.length} of {table.columns.length}</span>}</legend>
            <div class="columns">
              {table.columns.map((column) => (
                <label key={column} class="check">
                  <input type="checkbox" checked={columns.value.includes(column)} disabled={table.key.includes(column)} onChange={() => toggle(column)} />
                  <span>{column}</span>
                  {table.key.includes(column) && <span class="dim">key</span>}
                </label>
              ))}
            </div>
          </fieldset>
          <label class="check">
            <input type="checkbox" name="old" checked={old.value} onChange={() => (old.value = !old.value)} />
            <span>
              Old values
              <small class="dim">Updates and deletes carry what was there before, as filters and diffs need it</small>
            </span>
          </label>
          <div class="field">
            <span id="capture-label">Capture</span>
            <Choice label="Capture" value={capture.value} set={(v) => (capture.value = v)} of={[['trigger', 'By trigger'], ['wal', 'From the WAL']]} />
            <small class="dim">
              {capture.value === 'trigger'
                ? 'A trigger writes the event in the writer’s own transaction.'
                : 'Changes are read from the write-ahead log: no trigger, but wal_level must be logical.'}
            </small>
          </div>
          {table.attached?.enforced && <p class="hint">Row security is enforced on this table’s topics, and stays so.</p>}
          <Problem error={error.value} />
        </div>
        <footer class="dialog-foot">
          <button type="button" onClick={close}>Cancel</button>
          <button type="submit" class="primary" disabled={busy.value || !!problem || !columns.value.length}>
            {busy.value ? 'Asking…' : 'Show the SQL'}
          </button>
        </footer>
      </form>
    </Dialog>
  );
}
