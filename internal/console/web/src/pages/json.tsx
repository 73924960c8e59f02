import { useSignal } from '@preact/signals';
import { count } from '../format.js';

const pageOf = 100; // members shown at once of something large

/** A value of JSON as a tree whose branches fold. */
export function Tree({ value, name, depth = 0, last = true }: { value: unknown; name?: string; depth?: number; last?: boolean }) {
  const open = useSignal(depth < 2);
  const shown = useSignal(pageOf);
  const label = name === undefined ? null : <span class="json-name">{JSON.stringify(name)}: </span>;
  const comma = last ? '' : ',';
  if (typeof value !== 'object' || value === null) {
    const kind = value === null ? 'null' : typeof value;
    return (
      <div class="json-line">
        {label}
        <span class={`json-${kind}`}>{value === undefined ? 'nothing' : JSON.stringify(value)}</span>
        {comma}
      </div>
    );
  }
  const list = Array.isArray(value);
  const entries: [string | undefined, unknown][] = list ? value.map((v) => [undefined, v]) : Object.entries(value);
  const [left, right] = list ? '[]' : '{}';
  if (!entries.length) {
    return (
      <div class="json-line">
        {label}
        {left}
        {right}
        {comma}
      </div>
    );
  }
  return (
    <div class="json-branch">
      <button type="button" class="json-fold" aria-expanded={open.value} onClick={() => (open.value = !open.value)}>
        <i class="fold" aria-hidden="true" />
        {label}
        {left}
        {!open.value && (
          <>
            <span class="json-sum">
              {count(entries.length)} {list ? (entries.length === 1 ? 'item' : 'items') : entries.length === 1 ? 'member' : 'members'}
            </span>
            {right}
            {comma}
          </>
        )}
      </button>
      {open.value && (
        <>
          <div class="json-inside">
            {entries.slice(0, shown.value).map(([key, v], i) => (
              <Tree key={key ?? i} name={key} value={v} depth={depth + 1} last={i === entries.length - 1} />
            ))}
            {entries.length > shown.value && (
              <button type="button" class="small quiet" onClick={() => (shown.value += pageOf * 5)}>
                {count(entries.length - shown.value)} more
              </button>
            )}
          </div>
          <div class="json-line">
            {right}
            {comma}
          </div>
        </>
      )}
    </div>
  );
}
