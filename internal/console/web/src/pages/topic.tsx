import { useSignal } from '@preact/signals';
import { useEffect, useMemo } from 'preact/hooks';
import type { EventItem, Topic as Live } from 'pgcast';
import type { TopicDetail } from '../api.js';
import { count, rate } from '../format.js';
import { ApiError, me } from '../http.js';
import { bind } from '../keys.js';
import { usePoll } from '../poll.js';
import { narrow } from '../prefs.js';
import { link } from '../router.js';
import { realtime } from '../rt.js';
import { Dialog } from '../ui/dialog.js';
import { Icon } from '../ui/icons.js';
import { Choice, Empty, Problem, Skeleton, When } from '../ui/parts.js';
import { EventView } from './event.js';
import { Past, type PastState } from './past.js';
import { People } from './people.js';
import { draftOf, Publish } from './publish.js';
import { Stream } from './stream.js';
import { earlierOf, type Entry, Tail } from './tail.js';
import { keptWords } from './topics.js';

const recent = 200; // events of the past that the stream begins with

type Side = 'event' | 'publish' | 'people';

function Facts({ detail, tail }: { detail: TopicDetail | undefined; tail: Tail }) {
  const head = Math.max(detail?.head ?? 0, tail.head.value);
  const facts: [string, preact.ComponentChildren][] = [
    ['Head', <b key="h" data-fact="head">{count(head)}</b>],
    ['Tail', detail && count(detail.tail)],
    ['Rate', detail && `${rate(detail.rate)}/s`],
    ['Subscribers', detail && count(detail.subscribers)],
    ['Kept', detail && keptWords(detail.retention)],
    ['Newest', detail && <When at={detail.newest} />],
  ];
  return (
    <dl class="facts topic-facts">
      {facts.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value ?? <Skeleton />}</dd>
        </div>
      ))}
      {!!detail?.tables.length && (
        <div>
          <dt>Written by</dt>
          <dd>{detail.tables.map((t) => <a key={t} href={`${link('tables')}?search=${encodeURIComponent(t)}`}>{t}</a>)}</dd>
        </div>
      )}
    </dl>
  );
}

/** A topic: what comes, what was, and what can be added. */
export function Topic({ name }: { name: string }) {
  const detail = usePoll<TopicDetail>(`topic?name=${encodeURIComponent(name)}`, 3000);
  const missing = detail.error.value instanceof ApiError && detail.error.value.status === 404;
  const known = detail.data.value !== undefined || missing;
  return (
    <div class="topic-page">
      <header class="head topic-head">
        <div>
          <p class="crumbs"><a href={link('topics')}>Topics</a></p>
          <h1 class="topic-name" title={name}>{name}</h1>
        </div>
      </header>
      {!missing && <Problem error={detail.error.value} again={detail.refresh} />}
      {known && me.value?.signedIn ? <Page name={name} detail={detail.data.value} /> : <div class="waiting" aria-busy="true" />}
    </div>
  );
}

function step(by: number) {
  document.querySelector('.stream')?.dispatchEvent(new KeyboardEvent('keydown', { key: by > 0 ? 'j' : 'k', bubbles: true }));
}

function Page({ name, detail }: { name: string; detail: TopicDetail | undefined }) {
  const tail = useMemo(() => new Tail(detail?.head ?? 0), []);
  const topic = useMemo<Live>(() => {
    const after = detail ? Math.max(detail.tail - 1, detail.head - recent, 0) : undefined;
    return realtime().topic(name, after === undefined ? {} : { after });
  }, []);
  const paused = useSignal(false);
  const selected = useSignal<Entry | undefined>(undefined);
  const side = useSignal<Side>('publish');
  const past = useSignal<PastState | undefined>(undefined);

  useEffect(() => {
    tail.listen(topic);
    return () => {
      tail.close();
      topic.close();
    };
  }, []);

  const pause = () => {
    paused.value = !paused.value;
    if (paused.value) tail.hold();
    else release();
  };
  const release = () => {
    paused.value = false;
    tail.release();
    document.querySelector('.stream')?.scrollTo(0, 0);
  };
  const select = (entry: Entry | undefined) => {
    selected.value = entry;
    if (entry) side.value = 'event';
    else if (side.value === 'event') side.value = 'publish';
  };
  useEffect(() => bind('p', pause), []);
  useEffect(() => {
    const forward = (key: string) =>
      bind(key, () => document.querySelector('.stream')?.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true })));
    const stops = [forward('j'), forward('k'), bind('Escape', () => select(undefined))];
    return () => stops.forEach((stop) => stop());
  }, []);

  const version = tail.version.value;
  const state = past.value;
  const lines = state ? state.lines : tail.view();
  const head = Math.max(detail?.head ?? 0, tail.head.value);
  const chosen = selected.value?.item.type === 'event' ? (selected.value.item as EventItem) : undefined;
  const missed = state ? 0 : tail.missed;
  const key = detail?.key ?? [];
  // What does not change with each event is not made anew with each: the stream is drawn many times
  // a second. What was before an event is settled when the event is there.
  const view = useMemo(
    () => chosen && <EventView key={chosen.id} event={chosen} earlier={earlierOf(lines, chosen, key)} step={step} />,
    [selected.value, state, key.join('\n')],
  );
  const publish = useMemo(() => <Publish topic={topic} draft={draftOf()} />, [topic]);
  const people = useMemo(() => <People topic={topic} />, [topic]);
  return (
    <>
      <Facts detail={detail} tail={tail} />
      <div class="topic-grid">
        <section class="panel stream-panel" aria-label="Stream">
          <header class="stream-tools">
            <Choice label="Now or then" value={state ? 'past' : 'live'}
              set={(v) => {
                selected.value = undefined;
                if (v === 'past') past.value = { lines: [], seq: head, state: 'new' };
                else {
                  past.value = undefined;
                  release();
                }
              }}
              of={[['live', <><i class={`live-dot ${paused.value || state ? '' : 'on'}`} />Live</>], ['past', <><Icon name="history" size={14} />Time travel</>]]} />
            {!state && (
              <>
                <button type="button" onClick={pause} aria-pressed={paused.value} title="p">
                  <Icon name={paused.value ? 'play' : 'pause'} size={14} />
                  {paused.value ? 'Resume' : 'Pause'}
                </button>
                <span class="stream-rate" data-rate={tail.perSecond.value}>
                  <b>{count(tail.perSecond.value)}</b> <span class="dim">events/s</span>
                </span>
                <span class="dim stream-count"><b data-count={tail.events.value}>{count(tail.events.value)}</b> shown</span>
              </>
            )}
          </header>
          {state && <Past topic={topic} state={past} tail={detail?.tail ?? 1} head={head} select={(entry) => !narrow.value && select(entry)} />}
          <div class="stream-box">
            {missed > 0 && (
              <button type="button" class="missed" onClick={release} data-missed={missed}>
                <Icon name="up" size={14} />
                {count(missed)} new {missed === 1 ? 'event' : 'events'}
                {tail.overflowed ? ', the oldest of them no longer held' : ''}
              </button>
            )}
            <Stream lines={lines} version={version} selected={selected.value ?? state?.centre} select={select} centre={state?.centre}
              label={state ? `Events of ${name}, from its history` : `Events of ${name}, the newest first`}
              away={(away) => {
                if (state || paused.value) return;
                if (away) tail.hold();
                else tail.release();
              }} />
            {!lines.some((l) => l.item.type === 'event') && !state && (
              <div class="stream-empty">
                <Empty icon="topics" title="Waiting for events">
                  <p>{detail ? 'What is written from now on is shown here.' : 'No event was written to this topic yet. The first one makes it.'}</p>
                </Empty>
              </div>
            )}
          </div>
        </section>
        <section class="panel side-panel" aria-label="Details">
          <header class="side-tools">
            <Choice<Side> label="Details" value={narrow.value && side.value === 'event' ? 'publish' : side.value} set={(v) => (side.value = v)}
              of={[...(narrow.value ? [] : ([['event', 'Event']] as const)), ['publish', 'Publish'], ['people', 'People']]} />
          </header>
          <div class="side-inside">
            {side.value === 'people' ? people : side.value === 'publish' || narrow.value ? publish : view ?? (
              <Empty icon="docs" title="No event chosen">
                <p>Choose one in the stream: by a click, or with <kbd>j</kbd> and <kbd>k</kbd>.</p>
              </Empty>
            )}
          </div>
        </section>
      </div>
      {narrow.value && view && (
        <Dialog title={`Event ${count(chosen!.seq)}`} close={() => select(undefined)} kind="sheet">
          {view}
        </Dialog>
      )}
    </>
  );
}
