import { type Signal, signal, useSignal } from '@preact/signals';
import { useEffect, useMemo } from 'preact/hooks';
import type { Overview as Answer, Sample } from '../api.js';
import type { Columns, Line } from '../chart.js';
import { compact, count, exact, rate, span, spanText } from '../format.js';
import { me, read } from '../http.js';
import { link } from '../router.js';
import { say } from '../ui/dialog.js';
import { Icon } from '../ui/icons.js';
import { Badge, Choice, Copy, Empty, Head, Problem, Skeleton } from '../ui/parts.js';
import { columns, merge, type Name, newest, recent, type Totals } from './samples.js';

type Charts = typeof import('../chart.js');
/** The charts are loaded with the first page that shows some. */
const charts = signal<Charts | undefined>(undefined);

type Kind = 'rate' | 'time' | 'count';
interface Card {
  title: string;
  about: string;
  kind: Kind;
  nothing?: string;
  lines: (Line & { of: Name })[];
}

const cards: Card[] = [
  { title: 'Events', about: 'sequenced, a second', kind: 'rate',
    lines: [{ of: 'events', name: 'events', colour: '--plot-1', fill: true }] },
  { title: 'Deliveries', about: 'events handed to sessions, a second', kind: 'rate',
    lines: [{ of: 'deliveries', name: 'deliveries', colour: '--plot-1', fill: true }] },
  { title: 'Commit to delivery', about: 'half, and all but one in a hundred, were faster', kind: 'time',
    nothing: 'Nothing was delivered in this time',
    lines: [{ of: 'p50', name: 'p50', colour: '--plot-1' }, { of: 'p99', name: 'p99', colour: '--plot-2', dashed: true }] },
  { title: 'Sessions', about: 'connected, and subscriptions that are behind', kind: 'count',
    lines: [{ of: 'sessions', name: 'sessions', colour: '--plot-1', fill: true }, { of: 'behind', name: 'behind', colour: '--plot-2', dashed: true }] },
  { title: 'Sequencing', about: 'from an event’s creation to its place, the slowest', kind: 'time',
    lines: [{ of: 'sequencing', name: 'sequencing', colour: '--plot-1', fill: true }] },
  { title: 'Replication lag', about: 'this server’s reading behind the head of the log', kind: 'time',
    nothing: 'Measured while somebody looks',
    lines: [{ of: 'replication', name: 'lag', colour: '--plot-1', fill: true }] },
];

/** A value with its unit apart, so that the figure can be large. */
function figure(kind: Kind, value: number | null): [string, string] {
  if (value === null) return ['–', ''];
  if (kind === 'time') return span(value);
  return kind === 'rate' ? [rate(value), '/s'] : [compact(value), ''];
}

const axis: Record<Kind, (value: number) => string> = {
  time: (v) => (v === 0 ? '0' : spanText(v)),
  rate: compact,
  count: (v) => (Number.isInteger(v) ? compact(v) : ''),
};

function Figures({ card, samples, hovered }: { card: Card; samples: Sample[]; hovered: (name: Name) => number | null | undefined }) {
  return (
    <div class="figures">
      {card.lines.map((line, i) => {
        const pointed = hovered(line.of);
        const value = pointed !== undefined ? pointed : card.kind === 'rate' ? recent(samples, line.of) : newest(samples, line.of);
        const [number, unit] = figure(card.kind, value);
        return (
          <div key={line.of} class={`figure ${i ? 'second' : ''}`}>
            <span class="figure-value">
              {number}
              <small>{unit}</small>
            </span>
            {card.lines.length > 1 && (
              <span class="figure-name">
                <i class={line.dashed ? 'key dashed' : 'key'} />
                {line.name}
              </span>
            )}
          </div>
        );
      })}
    </div>
  );
}

function Sum({ name, value, to, children }: { name: string; value: number | undefined; to?: string; children?: preact.ComponentChildren }) {
  const text = value === undefined ? <Skeleton width="4ch" /> : <strong>{count(value)}</strong>;
  return (
    <div class="sum">
      <dt>{name}</dt>
      <dd>{to ? <a href={to}>{text}</a> : text}{children}</dd>
    </div>
  );
}

/** What the server does now, and did in the last 15 minutes. */
export function Overview() {
  const samples = useSignal<Sample[]>([]);
  const totals = useSignal<Totals | undefined>(undefined);
  const error = useSignal<unknown>(undefined);
  const at = useSignal<number | null>(null);
  const minutes = useSignal<'1' | '5' | '15'>('15');

  useEffect(() => {
    if (!charts.value) {
      import('../chart.js').then(
        (loaded) => (charts.value = loaded),
        () => say('The charts could not be loaded: load the page again.', 'bad'),
      );
    }
  }, []);
  useEffect(() => {
    const stop = new AbortController();
    let timer: ReturnType<typeof setTimeout>;
    const look = async () => {
      clearTimeout(timer);
      try {
        const { samples: fresh, ...rest } = await read<Answer>(`overview?since=${samples.value.at(-1)?.at ?? 0}`, stop.signal);
        samples.value = merge(samples.value, fresh);
        totals.value = rest;
        error.value = undefined;
      } catch (reason) {
        if (stop.signal.aborted) return;
        error.value = reason;
      }
      if (!stop.signal.aborted && !document.hidden) timer = setTimeout(look, 1000);
    };
    const seen = () => {
      if (!document.hidden) void look();
    };
    document.addEventListener('visibilitychange', seen);
    void look();
    return () => {
      stop.abort();
      clearTimeout(timer);
      document.removeEventListener('visibilitychange', seen);
    };
  }, []);

  const table = useMemo(() => columns(samples.value), [samples.value]);
  const to = table.at.at(-1) ?? Date.now() / 1000;
  // A server that is younger than the time asked for has its whole life shown, at least a minute.
  const from = Math.max(to - Number(minutes.value) * 60, Math.min(table.at[0] ?? to, to - 60));
  const pointed = at.value !== null && at.value < table.at.length ? at.value : null;
  const sum = totals.value;
  const quiet = sum && sum.totals.events === 0;
  return (
    <>
      <Head title="Overview"
        about={pointed === null ? 'This server, as of now' : `At ${exact(table.at[pointed]! * 1000).slice(0, 19)}`}>
        <Choice label="Time shown" value={minutes.value} set={(v) => (minutes.value = v)}
          of={[['1', '1 min'], ['5', '5 min'], ['15', '15 min']]} />
      </Head>
      <Problem error={error.value} />
      {!!sum?.degraded.length && (
        <div class="problem warn" role="status">
          <Icon name="warn" />
          <div>
            <strong>Degraded: {sum.degraded.join(', ')}</strong>
            <p>The server cannot reach it. Streams of what is kept go on; see <a href={link('health')}>Health</a>.</p>
          </div>
        </div>
      )}
      <dl class="sums">
        <Sum name="Topics" value={sum?.totals.topics} to={link('topics')} />
        <Sum name="Events kept" value={sum?.totals.events} />
        <Sum name="Sessions" value={sum?.totals.sessions} to={link('sessions')} />
        <Sum name="Subscriptions" value={sum?.totals.subscriptions} />
        <div class="sum">
          <dt>Sequencer</dt>
          <dd>
            {sum ? (
              <>
                <Badge tone={sum.sequencer.mine ? 'good' : ''}>{sum.sequencer.mine ? 'this server' : 'another server'}</Badge>
                <span class="dim">term {count(sum.sequencer.term)} · woken by {sum.sequencer.wake}</span>
              </>
            ) : (
              <Skeleton width="18ch" />
            )}
          </dd>
        </div>
      </dl>
      {quiet && <FirstSteps />}
      <div class="cards">
        {cards.map((card) => (
          <CardView key={card.title} card={card} samples={samples.value} table={table} from={from} to={to} at={at} pointed={pointed} />
        ))}
      </div>
      <Spoken samples={samples.value} />
    </>
  );
}

function CardView({ card, samples, table, from, to, at, pointed }: {
  card: Card;
  samples: Sample[];
  table: ReturnType<typeof columns>;
  from: number;
  to: number;
  at: Signal<number | null>;
  pointed: number | null;
}) {
  const data = useMemo<Columns>(() => [table.at, ...card.lines.map((line) => table[line.of])], [table, from]);
  const Chart = charts.value?.Chart;
  const now = card.lines
    .map((line) => `${line.name} ${figure(card.kind, newest(samples, line.of)).join(' ')}`)
    .join(', ');
  return (
    <section class="card chart-card" aria-label={card.title}>
      <header>
        <h2 title={card.about}>{card.title}</h2>
        <Figures card={card} samples={samples} hovered={(name) => (pointed === null ? undefined : table[name][pointed])} />
      </header>
      {Chart ? (
        <Chart data={data} lines={card.lines} at={at} unit={axis[card.kind]} nothing={card.nothing ?? 'No figures of this time'} from={from} to={to}
          label={`${card.title}: ${card.about}, over the last minutes. Now: ${now}.`} />
      ) : (
        <div class="plot" />
      )}
    </section>
  );
}

/** The charts in words, minute by minute, for those who do not see them. */
function Spoken({ samples }: { samples: Sample[] }) {
  const minutes = new Map<number, Sample[]>();
  for (const sample of samples) {
    const minute = Math.floor(sample.at / 60_000);
    minutes.set(minute, [...(minutes.get(minute) ?? []), sample]);
  }
  const mean = (of: Sample[], name: Name) => {
    const values = of.map((s) => s[name]).filter((v): v is number => v !== null);
    return values.length ? rate(values.reduce((a, b) => a + b, 0) / values.length) : 'none';
  };
  return (
    <div class="hidden"><table>
      <caption>The charts in figures: means of each minute, times in milliseconds</caption>
      <thead>
        <tr>
          <th scope="col">Minute</th>
          {cards.flatMap((c) => c.lines).map((line) => <th key={line.of} scope="col">{line.name}</th>)}
        </tr>
      </thead>
      <tbody>
        {[...minutes].map(([minute, of]) => (
          <tr key={minute}>
            <th scope="row">{exact(minute * 60_000).slice(11, 16)}</th>
            {cards.flatMap((c) => c.lines).map((line) => <td key={line.of}>{mean(of, line.of)}</td>)}
          </tr>
        ))}
      </tbody>
    </table></div>
  );
}

function FirstSteps() {
  const call = "select pgcast.publish('hello', 'greeting', '{\"from\": \"psql\"}');";
  return (
    <section class="card first-steps" aria-label="First steps">
      <Empty icon="topics" title="Nothing was written yet">
        <p>Attach a table, and each of its writes becomes an event; or publish one by hand.</p>
        <div class="code">
          <pre tabIndex={0} aria-label="SQL"><code>{call}</code></pre>
          <Copy text={call} what="the SQL" />
        </div>
        <p>
          <a class="button primary" href={link('tables')}>Attach a table</a>
          {me.value?.listen && <span class="dim">Clients connect to {me.value.listen}</span>}
        </p>
      </Empty>
    </section>
  );
}
