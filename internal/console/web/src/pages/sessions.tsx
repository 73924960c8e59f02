import { useSignal } from '@preact/signals';
import type { SessionLine, Sessions as Answer } from '../api.js';
import { count, exact, spanText } from '../format.js';
import { ApiError, me, send, wordsOf } from '../http.js';
import { usePoll } from '../poll.js';
import { link, route, setQuery } from '../router.js';
import { Dialog, say } from '../ui/dialog.js';
import { Badge, type Column, Empty, Head, List, Problem, Search, When } from '../ui/parts.js';

const limit = 200;
const transports = { websocket: 'WebSocket', sse: 'SSE', poll: 'long poll' } as const;

/** Who a session is, in the best words there are. Its user is JSON, with whatever fields presence shows. */
function whoIs(s: SessionLine): { name: string; about: string } {
  let user: Record<string, unknown> = {};
  try {
    const value: unknown = JSON.parse(s.user);
    if (typeof value === 'object' && value !== null) user = value as Record<string, unknown>;
  } catch {
    user = s.user ? { name: s.user } : {};
  }
  const text = (value: unknown) => (typeof value === 'string' || typeof value === 'number' ? String(value) : '');
  const name = s.subject || text(user.name) || text(user.id) || (s.operator ? 'operator' : 'anonymous');
  const others = [text(user.name), text(user.id)].filter((word) => word && word !== name);
  return { name, about: [...others, `session ${s.id}`].join(' · ') };
}

function Subscriptions({ of }: { of: SessionLine }) {
  const shown = of.subscriptions.slice(0, 2);
  const rest = of.subscriptionCount - shown.length;
  if (!of.subscriptionCount) return <span class="dim">none</span>;
  return (
    <span class="topics-of" title={of.subscriptions.join('\n')}>
      {shown.map((t) => (/\*/.test(t) ? <code key={t}>{t}</code> : <a key={t} class="name" href={link('topics', t)}>{t}</a>))}
      {rest > 0 && <span class="dim">+{count(rest)}</span>}
    </span>
  );
}

/** Who is connected to this server. */
export function Sessions() {
  const search = route.value.query.get('search') ?? '';
  const { data, error, refresh } = usePoll<Answer>(`sessions?limit=${limit}&search=${encodeURIComponent(search)}`, 2000, true);
  const ending = useSignal<SessionLine | undefined>(undefined);
  const answer = data.value;
  const columns: Column<SessionLine>[] = [
    { name: 'Who', main: true, cell: (s) => {
      const { name, about } = whoIs(s);
      return <span class="who"><b class={name === 'anonymous' ? 'dim' : ''}>{name}</b><small class="dim" title={s.user}>{about}</small></span>;
    } },
    { name: 'Transport', cell: (s) => <span class="badges"><Badge>{transports[s.transport]}</Badge>{s.operator && <Badge tone="note">console</Badge>}</span> },
    { name: 'Address', cell: (s) => <code>{s.address}</code> },
    { name: 'Round trip', number: true, cell: (s) => (s.rtt === null ? <span class="dim" title="not measured yet">–</span> : spanText(s.rtt)) },
    { name: 'Subscriptions', wide: true, cell: (s) => <Subscriptions of={s} /> },
    { name: 'Behind', number: true, cell: (s) => (s.behind > 0 ? <Badge tone="warn">{count(s.behind)} events</Badge> : <span class="dim">0</span>) },
    { name: 'Since', cell: (s) => <When at={s.since} /> },
    ...(me.value?.access ? [{ name: 'Token ends', cell: (s: SessionLine) => (s.expires ? <span title={exact(s.expires)}><When at={s.expires} /></span> : <span class="dim">–</span>) }] : []),
    { name: '', cell: (s) => (
      <span class="row-actions">
        <button type="button" class="small" onClick={() => (ending.value = s)} aria-label={`Disconnect ${whoIs(s).name}, ${s.address}`}>Disconnect</button>
      </span>
    ) },
  ];
  return (
    <>
      <Head title="Sessions" about={answer ? `${count(answer.total)} ${search ? 'found' : 'connected'}, of this server${answer.server ? ` (${answer.server})` : ''}` : 'Connected to this server'}>
        <Search label="Search sessions" value={search} set={(v) => setQuery('search', v)} />
      </Head>
      <Problem error={error.value} again={refresh} />
      {answer && !answer.sessions.length ? (
        search ? (
          <Empty icon="search" title={`No session fits “${search}”`}>
            <button type="button" onClick={() => setQuery('search', '')}>Show all</button>
          </Empty>
        ) : (
          <Empty icon="sessions" title="Nobody is connected">
            <p>Clients connect to <code>{me.value?.listen || 'the listener'}/ws</code>, and are shown here.</p>
          </Empty>
        )
      ) : (
        <List label="Sessions" rows={answer?.sessions} columns={columns} id={(s) => s.id} />
      )}
      {answer && answer.sessions.length < answer.total && (
        <p class="list-foot"><span class="dim">The first {count(answer.sessions.length)} of {count(answer.total)}: search for others</span></p>
      )}
      {ending.value && <End session={ending.value} close={() => (ending.value = undefined)} done={() => void refresh()} />}
    </>
  );
}

function End({ session, close, done }: { session: SessionLine; close: () => void; done: () => void }) {
  const busy = useSignal(false);
  const error = useSignal<unknown>(undefined);
  const end = async () => {
    busy.value = true;
    error.value = undefined;
    try {
      await send('sessions/disconnect', { id: session.id });
      say(`${whoIs(session).name} is disconnected`);
    } catch (reason) {
      if (!(reason instanceof ApiError && reason.status === 404)) {
        error.value = reason;
        busy.value = false;
        return;
      }
      say(`It has gone by itself: ${wordsOf(reason).message}`);
    }
    close();
    done();
  };
  return (
    <Dialog title="Disconnect this session?" close={close}>
      <div class="dialog-inside">
        <dl class="facts">
          <div><dt>Who</dt><dd>{whoIs(session).name}</dd></div>
          <div><dt>Address</dt><dd><code>{session.address}</code></dd></div>
          <div><dt>Subscriptions</dt><dd>{count(session.subscriptionCount)}</dd></div>
        </dl>
        <p>
          Its client may come back, and go on where it was; nothing is lost. To keep somebody out, revoke the token: <code>pgcast revoke</code>.
        </p>
        <Problem error={error.value} />
      </div>
      <footer class="dialog-foot">
        <button type="button" onClick={close}>Cancel</button>
        <button type="button" class="danger" data-first onClick={end} disabled={busy.value}>{busy.value ? 'Disconnecting…' : 'Disconnect'}</button>
      </footer>
    </Dialog>
  );
}
