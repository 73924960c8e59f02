import { useSignal } from '@preact/signals';
import { useEffect, useLayoutEffect, useRef } from 'preact/hooks';
import { count } from '../format.js';
import { narrow } from '../prefs.js';
import { Icon } from '../ui/icons.js';
import { type Entry, wordsIn } from './tail.js';

const rowHeight = () => (narrow.value ? 52 : 32);
const spare = 6; // rows drawn beyond the edge

/** The tone of an event's name: the three of rows have their own. */
export function tone(event: string): string {
  switch (event) {
    case 'created':
    case 'entered':
      return 'created';
    case 'updated':
      return 'updated';
    case 'deleted':
    case 'truncated':
    case 'gone':
      return 'deleted';
    default:
      return 'published';
  }
}

function Notice({ entry }: { entry: Entry }) {
  const { item } = entry;
  switch (item.type) {
    case 'gap':
      return (
        <>
          <Icon name="warn" />
          <b>Gap</b>
          <span>
            {item.tail > item.after + 1
              ? `events ${count(item.after + 1)} to ${count(item.tail - 1)} are trimmed away`
              : `events after ${count(item.after)} are trimmed away`}
          </span>
        </>
      );
    case 'reset':
      return (
        <>
          <Icon name="warn" />
          <b>Reset</b>
          <span>the history seen before exists no longer; the stream goes on after {count(item.head)}</span>
        </>
      );
    case 'denied':
      return (
        <>
          <Icon name="fail" />
          <b>Denied</b>
          <span>{item.message ?? item.reason}</span>
        </>
      );
    case 'subscribed':
      return (
        <>
          <Icon name="check" />
          <b>{item.resumed && !entry.first ? 'Resumed' : 'Subscribed'}</b>
          <span>every event after {count(item.seq)} follows{item.resumed && !entry.first ? '; none was missed' : ''}</span>
        </>
      );
    default:
      return null;
  }
}

function Row({ entry, top, selected, index, select }: {
  entry: Entry;
  top: number;
  selected: boolean;
  index: number;
  select: (entry: Entry) => void;
}) {
  const { item } = entry;
  const { data, time } = wordsIn(entry);
  const common = {
    role: 'option',
    'aria-selected': selected,
    'aria-posinset': index + 1,
    'aria-setsize': -1, // not known: more comes, and more was. A number would change all rows with each event.
    style: { transform: `translateY(${top}px)` },
  } as const;
  if (item.type !== 'event') {
    return (
      <div {...common} class={`row notice ${item.type}`} id={`row-${entry.n}`}>
        <Notice entry={entry} />
        <time title={time}>{time.slice(11)}</time>
      </div>
    );
  }
  return (
    <div {...common} class="row" id={`row-${entry.n}`} onClick={() => select(entry)}>
      <span class="row-seq">{item.seq}</span>
      <span class={`row-event ${tone(item.event)}`}>{item.event}</span>
      <code class="row-data">{data}</code>
      <time title={time}>{time.slice(11)}</time>
    </div>
  );
}

/**
 * The lines of a stream, the newest at the top. Only those that are seen are drawn. away is told
 * when somebody scrolls away from the newest, and back.
 */
export function Stream({ lines, version, selected, select, away, label, centre }: {
  lines: readonly Entry[];
  version: number;
  selected: Entry | undefined;
  select: (entry: Entry | undefined) => void;
  away: (away: boolean) => void;
  label: string;
  /** A line to bring into the middle when it changes. */
  centre?: Entry;
}) {
  const box = useRef<HTMLDivElement>(null);
  const top = useSignal(0);
  const height = useSignal(400);
  const row = rowHeight();
  const total = lines.length;

  useLayoutEffect(() => {
    const element = box.current!;
    height.value = element.clientHeight;
    const watch = new ResizeObserver(() => (height.value = element.clientHeight));
    watch.observe(element);
    return () => watch.disconnect();
  }, []);
  useEffect(() => {
    const element = box.current;
    const index = centre ? lines.indexOf(centre) : -1;
    if (element && index >= 0) element.scrollTop = (total - 1 - index) * row - element.clientHeight / 2 + row / 2;
  }, [centre]);

  const show = (index: number) => {
    const element = box.current!;
    if (index * row < element.scrollTop) element.scrollTop = index * row;
    else if ((index + 1) * row > element.scrollTop + element.clientHeight) element.scrollTop = (index + 1) * row - element.clientHeight;
  };
  const step = (by: number) => {
    const current = selected ? lines.lastIndexOf(selected) : -1;
    let index = current < 0 ? (by > 0 ? -1 : 0) : total - 1 - current;
    do index += by;
    while (index >= 0 && index < total && lines[total - 1 - index]!.item.type !== 'event');
    const entry = index >= 0 ? lines[total - 1 - index] : undefined;
    if (!entry) return;
    select(entry);
    show(index);
  };
  const press = (event: KeyboardEvent) => {
    const page = Math.max(1, Math.floor(height.value / row) - 1);
    const by = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1, PageDown: page, PageUp: -page }[event.key];
    if (by) step(by);
    else if (event.key === 'Home') box.current!.scrollTop = 0;
    else if (event.key === 'Escape' && selected) select(undefined);
    else return;
    event.preventDefault();
    event.stopPropagation();
  };

  const first = Math.max(0, Math.floor(top.value / row) - spare);
  const last = Math.min(total, Math.ceil((top.value + height.value) / row) + spare);
  const rows = [];
  for (let i = first; i < last; i++) {
    const entry = lines[total - 1 - i]!;
    // Named by their place: lines run through rows that stay, which is cheaper than new rows.
    rows.push(<Row key={i - first} entry={entry} top={i * row} index={i} selected={entry === selected} select={select} />);
  }
  const active = selected && rows.some((r) => r.props.entry === selected) ? `row-${selected.n}` : undefined;
  return (
    <div
      ref={box}
      class="stream"
      data-version={version}
      role={total ? 'listbox' : undefined}
      tabIndex={0}
      aria-label={label}
      aria-activedescendant={active}
      onKeyDown={press}
      onScroll={(event) => {
        const before = top.value;
        top.value = event.currentTarget.scrollTop;
        if (before < row !== top.value < row) away(top.value >= row);
      }}
    >
      <div class="stream-all" role="presentation" style={{ height: `${total * row}px` }}>
        {rows}
      </div>
    </div>
  );
}
