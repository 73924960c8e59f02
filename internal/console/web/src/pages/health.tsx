import { useSignal } from '@preact/signals';
import type { Finding, Health as Answer } from '../api.js';
import { read } from '../http.js';
import { usePoll } from '../poll.js';
import { Icon, type IconName } from '../ui/icons.js';
import { Badge, Code, Empty, Head, Problem, Skeleton, When } from '../ui/parts.js';

const groups: readonly { state: Finding['state']; title: string; icon: IconName; open: boolean }[] = [
  { state: 'fail', title: 'Broken', icon: 'fail', open: true },
  { state: 'warn', title: 'To be mended', icon: 'warn', open: true },
  { state: 'note', title: 'To be known', icon: 'note', open: true },
  { state: 'ok', title: 'As it should be', icon: 'ok', open: false },
  { state: 'skip', title: 'Not looked at', icon: 'skip', open: false },
];

function FindingView({ of }: { of: Finding }) {
  return (
    <article class={`finding ${of.state}`}>
      <h3>{of.name}</h3>
      <p class="found">{of.found}</p>
      {of.why && <p class="dim">{of.why}</p>}
      {of.mend && (of.mend_with === 'sql' || of.mend_with === 'shell' ? <Code text={of.mend} what={`what mends ${of.name}`} /> : <p class="mend">{of.mend}</p>)}
    </article>
  );
}

/** What the doctor finds, the worst first. */
export function Health() {
  const { data, error, refresh } = usePoll<Answer>('health', 30_000);
  const busy = useSignal(false);
  const failed = useSignal<unknown>(undefined);
  const answer = data.value;
  const again = async () => {
    busy.value = true;
    failed.value = undefined;
    try {
      data.value = await read<Answer>('health?fresh=1');
    } catch (reason) {
      failed.value = reason;
    }
    busy.value = false;
  };
  const number = (state: Finding['state']) => answer?.results.filter((r) => r.state === state).length ?? 0;
  const bad = number('fail');
  const warned = number('warn');
  const tone = !answer ? '' : bad ? 'bad' : warned ? 'warn' : 'good';
  const words = !answer ? 'Looking…' : bad ? (bad === 1 ? 'One thing is broken' : `${bad} things are broken`)
    : warned ? (warned === 1 ? 'One thing wants mending' : `${warned} things want mending`) : 'All is well';
  return (
    <>
      <Head title="Health" about="What the doctor finds in this database and server, and what mends it">
        <button type="button" onClick={again} disabled={busy.value}>
          <Icon name="refresh" />
          {busy.value ? 'Looking…' : 'Look again'}
        </button>
      </Head>
      <Problem error={failed.value ?? error.value} again={refresh} />
      <div class={`verdict ${tone}`} role="status">
        <Icon name={tone === 'bad' ? 'fail' : tone === 'warn' ? 'warn' : tone === 'good' ? 'ok' : 'refresh'} size={22} />
        <div>
          <h2>{words}</h2>
          <p class="dim">{answer ? <>Looked <When at={answer.at} /></> : <Skeleton width="14ch" />}</p>
        </div>
        <span class="badges">
          {groups.map((g) => number(g.state) > 0 && <Badge key={g.state} tone={g.state}>{number(g.state)} {g.state}</Badge>)}
        </span>
      </div>
      {answer && !answer.results.length && <Empty icon="health" title="Nothing was looked at" />}
      {groups.map((g) => {
        const findings = answer?.results.filter((r) => r.state === g.state) ?? [];
        if (!findings.length) return null;
        return (
          <details key={g.state} class="card findings" open={g.open}>
            <summary>
              <span class={`tone ${g.state}`}><Icon name={g.icon} /></span>
              <h2>{g.title}</h2>
              <span class="dim">{findings.length}</span>
            </summary>
            {findings.map((f, i) => <FindingView key={f.name + i} of={f} />)}
          </details>
        );
      })}
    </>
  );
}
