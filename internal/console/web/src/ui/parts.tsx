import { useSignal } from '@preact/signals';
import type { ComponentChildren, JSX } from 'preact';
import { useEffect, useRef } from 'preact/hooks';
import { ago, exact, now } from '../format.js';
import { wordsOf } from '../http.js';
import { Icon, type IconName } from './icons.js';

/** A moment as how long ago it was; exactly when one points at it. */
export function When({ at }: { at: number | null | undefined }) {
  if (at == null) return <span class="dim">–</span>;
  return (
    <time dateTime={new Date(at).toISOString()} title={exact(at)}>
      {ago(at, now.value)}
    </time>
  );
}

/** What is not known yet: as much room as it will take. */
export function Skeleton({ width = '6ch', lines = 1 }: { width?: string; lines?: number }) {
  return (
    <>
      {Array.from({ length: lines }, (_, i) => (
        <span key={i} class="skeleton" style={{ width }} aria-hidden="true" />
      ))}
    </>
  );
}

/** Why something could not be had, and what to do. */
export function Problem({ error, again }: { error: unknown; again?: () => void }) {
  if (!error) return null;
  const { message, hint } = wordsOf(error);
  return (
    <div class="problem" role="alert">
      <Icon name="fail" />
      <div>
        <strong>{message}</strong>
        {hint && <p>{hint}</p>}
      </div>
      {again && (
        <button type="button" class="small" onClick={again}>
          Try again
        </button>
      )}
    </div>
  );
}

/** What stands where nothing is yet: what it would be, and how to get it. */
export function Empty({ icon, title, children }: { icon: IconName; title: string; children?: ComponentChildren }) {
  return (
    <div class="empty">
      <span class="empty-icon">
        <Icon name={icon} size={22} />
      </span>
      <h3>{title}</h3>
      {children && <div class="empty-words">{children}</div>}
    </div>
  );
}

/** Copies text, and says that it did. */
export function Copy({ text, label = 'Copy', what }: { text: string; label?: string; what?: string }) {
  const done = useSignal<'' | 'done' | 'failed'>('');
  useEffect(() => {
    if (!done.value) return;
    const timer = setTimeout(() => (done.value = ''), 1600);
    return () => clearTimeout(timer);
  }, [done.value]);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      done.value = 'done';
    } catch {
      done.value = copyByHand(text) ? 'done' : 'failed';
    }
  };
  return (
    <button type="button" class="small quiet" onClick={copy} aria-label={what ? `${label} ${what}` : undefined}>
      <Icon name={done.value === 'done' ? 'check' : 'copy'} size={14} />
      <span aria-live="polite">{done.value === 'done' ? 'Copied' : done.value === 'failed' ? 'Not allowed' : label}</span>
    </button>
  );
}

/** Where the page is not served over TLS nor from this machine, browsers have no clipboard to write to. */
function copyByHand(text: string): boolean {
  const area = document.createElement('textarea');
  area.value = text;
  area.className = 'hidden';
  document.body.append(area);
  area.select();
  const done = document.execCommand('copy');
  area.remove();
  return done;
}

/** SQL, or another text, to be read and copied. */
export function Code({ text, what }: { text: string; what?: string }) {
  return (
    <div class="code">
      <pre tabIndex={0} aria-label={what ?? 'code'}>
        <code>{text}</code>
      </pre>
      <Copy text={text} what={what} />
    </div>
  );
}

/** A field to search by; '/' goes to it. */
export function Search({ value, set, label, id }: { value: string; set: (value: string) => void; label: string; id?: string }) {
  const timer = useRef<ReturnType<typeof setTimeout>>();
  const typed = useRef<HTMLInputElement>(null);
  useEffect(() => {
    if (typed.current && document.activeElement !== typed.current) typed.current.value = value;
  }, [value]);
  return (
    <label class="search">
      <Icon name="search" />
      <span class="hidden">{label}</span>
      <input
        ref={typed}
        id={id}
        type="search"
        data-search
        placeholder={label}
        defaultValue={value}
        autocomplete="off"
        spellcheck={false}
        onInput={(event) => {
          const text = event.currentTarget.value;
          clearTimeout(timer.current);
          timer.current = setTimeout(() => set(text.trim()), 150);
        }}
      />
      <kbd aria-hidden="true">/</kbd>
    </label>
  );
}

/** A word in a small coloured frame. */
export function Badge({ tone = '', children, title }: { tone?: string; children: ComponentChildren; title?: string }) {
  return (
    <span class={`badge ${tone}`} title={title}>
      {children}
    </span>
  );
}

/** A page's head: its name, a line about it, and what can be done there. */
export function Head({ title, children, about }: { title: ComponentChildren; about?: ComponentChildren; children?: ComponentChildren }) {
  return (
    <header class="head">
      <div>
        <h1>{title}</h1>
        {about && <p class="about">{about}</p>}
      </div>
      {children && <div class="head-tools">{children}</div>}
    </header>
  );
}

/** A choice of a few, of which one holds. */
export function Choice<T extends string>({ value, set, of, label }: {
  value: T;
  set: (value: T) => void;
  of: readonly (readonly [T, ComponentChildren])[];
  label: string;
}) {
  return (
    <div class="choice" role="group" aria-label={label}>
      {of.map(([name, words]) => (
        <button key={name} type="button" aria-pressed={name === value} onClick={() => set(name)}>
          {words}
        </button>
      ))}
    </div>
  );
}

/** One column of a list: on a phone each row becomes a card, and name stands beside the value. */
export interface Column<T> {
  name: string;
  cell: (row: T) => ComponentChildren;
  number?: boolean;
  /** The cell names its row. */
  main?: boolean;
  wide?: boolean;
}

/** A list of things as a table, or as cards on a phone. */
export function List<T>({ rows, columns, id, label, row }: {
  rows: readonly T[] | undefined;
  columns: readonly Column<T>[];
  id: (row: T) => string;
  label: string;
  row?: (row: T) => JSX.HTMLAttributes<HTMLTableRowElement>;
}) {
  return (
    <div class="list">
      <table aria-label={label} aria-busy={!rows}>
        <thead>
          <tr>
            {columns.map((c) => (
              <th key={c.name} scope="col" class={c.number ? 'number' : ''}>
                {c.name || <span class="hidden">Actions</span>}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows
            ? rows.map((r) => (
                <tr key={id(r)} {...row?.(r)}>
                  {columns.map((c) => {
                    const kind = `${c.number ? 'number' : ''} ${c.main ? 'main' : ''} ${c.wide ? 'wide' : ''}`;
                    return c.main ? (
                      <th key={c.name} scope="row" class={kind}>
                        {c.cell(r)}
                      </th>
                    ) : (
                      <td key={c.name} class={kind} data-name={c.name}>
                        {c.cell(r)}
                      </td>
                    );
                  })}
                </tr>
              ))
            : Array.from({ length: 6 }, (_, i) => (
                <tr key={i}>
                  {columns.map((c) => (
                    <td key={c.name} data-name={c.name} class={c.number ? 'number' : ''}>
                      <Skeleton width={c.main ? '18ch' : '6ch'} />
                    </td>
                  ))}
                </tr>
              ))}
        </tbody>
      </table>
    </div>
  );
}
