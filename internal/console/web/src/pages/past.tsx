import { type Signal, useSignal } from '@preact/signals';
import { useEffect, useRef } from 'preact/hooks';
import type { Topic } from 'pgcast';
import { count, exact } from '../format.js';
import { wordsOf } from '../http.js';
import { say } from '../ui/dialog.js';
import { Icon } from '../ui/icons.js';
import { type Entry, entryOf } from './tail.js';
import { around, seqAt, windowOf } from './travel.js';

/** What is shown of a topic's past. */
export interface PastState {
  lines: Entry[];
  /** The place that was asked for. */
  seq: number;
  state: 'new' | 'loading' | 'there';
  /** The line at that place. */
  centre?: Entry;
}

/** Goes through the history of a topic: by a slider, by seq, or by time. */
export function Past({ topic, state, tail, head, select }: {
  topic: Topic;
  state: Signal<PastState | undefined>;
  tail: number;
  head: number;
  select: (entry: Entry | undefined) => void;
}) {
  const wanted = useRef(0);
  const timer = useRef<ReturnType<typeof setTimeout>>();
  const field = useRef<HTMLInputElement>(null);
  const error = useSignal('');
  const first = Math.max(1, tail);
  const seq = state.value?.seq ?? head;

  const load = async (to: number) => {
    const turn = ++wanted.current;
    const place = Math.max(first, Math.min(head, to));
    state.value = { ...state.value!, seq: place, state: 'loading' };
    error.value = '';
    try {
      const page = await around(topic, place, first);
      if (turn !== wanted.current || !state.value) return;
      const lines = page.events.map(entryOf);
      const after = Math.max(first - 1, place - windowOf / 2, 0);
      if (page.tail > after + 1) lines.unshift(entryOf({ type: 'gap', topic: topic.name, after, tail: page.tail, head: page.head }));
      const centre = lines.find((l) => l.item.type === 'event' && l.item.seq >= place) ?? lines.at(-1);
      state.value = { lines, seq: place, state: 'there', centre };
      select(centre);
    } catch (reason) {
      if (turn === wanted.current) error.value = wordsOf(reason).message;
    }
  };
  const soon = (to: number) => {
    state.value = { ...state.value!, seq: to };
    clearTimeout(timer.current);
    timer.current = setTimeout(() => void load(to), 120);
  };
  const goTo = async (text: string) => {
    const time = Date.parse(text);
    if (Number.isNaN(time)) return;
    try {
      const found = await seqAt(topic, time, first, head);
      if (found === undefined) say(`Nothing was written after ${exact(time).slice(0, 19)}: this is the newest event.`);
      await load(found ?? head);
    } catch (reason) {
      error.value = wordsOf(reason).message;
    }
  };
  useEffect(() => {
    if (state.value?.state === 'new') void load(head);
    return () => clearTimeout(timer.current);
  }, []);

  // Nobody is to have the number changed under his hands.
  useEffect(() => {
    if (field.current && document.activeElement !== field.current) field.current.value = String(seq);
  }, [seq]);

  const centre = state.value?.centre;
  const nothing = head < first;
  return (
    <div class="travel">
      <label class="travel-slider">
        <span class="hidden">Place in the history</span>
        <input type="range" name="travel" min={first} max={Math.max(first, head)} value={seq} disabled={nothing}
          aria-valuetext={`event ${seq} of ${head}`} onInput={(e) => soon(Number(e.currentTarget.value))} />
      </label>
      <div class="travel-row">
        <button type="button" class="small" disabled={nothing || seq <= first} onClick={() => void load(seq - windowOf / 2)}>
          <Icon name="left" size={14} />Older
        </button>
        <label class="travel-seq">
          <span>Seq</span>
          <input type="number" name="seq" ref={field} min={first} max={head} disabled={nothing}
            onChange={(e) => e.currentTarget.value && void load(Math.round(Number(e.currentTarget.value)))} />
          <span class="dim">of {count(head)}</span>
        </label>
        <label class="travel-time">
          <span>At</span>
          <input type="datetime-local" name="time" step={1} disabled={nothing} onChange={(e) => void goTo(e.currentTarget.value)} />
        </label>
        <button type="button" class="small" disabled={nothing || seq >= head} onClick={() => void load(seq + windowOf / 2)}>
          Newer<Icon name="right" size={14} />
        </button>
      </div>
      <p class="travel-state dim" role="status">
        {error.value ? <span class="bad">{error.value}</span>
          : nothing ? 'No events are kept of this topic.'
          : state.value?.state === 'loading' ? 'Reading…'
          : centre?.item.type === 'event' ? `Event ${count(centre.item.seq)}, written ${exact(centre.at)}` : ''}
      </p>
    </div>
  );
}
