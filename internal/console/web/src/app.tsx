import { useEffect } from 'preact/hooks';
import { now, duration } from './format.js';
import { away, keepToken, lookWhoIAm, me, token } from './http.js';
import { sheet } from './keys.js';
import { choose, dark, type Theme, theme } from './prefs.js';
import { link, route } from './router.js';
import { lost, realtime, status } from './rt.js';
import { Docs } from './pages/docs.js';
import { Health } from './pages/health.js';
import { Overview } from './pages/overview.js';
import { Sessions } from './pages/sessions.js';
import { SignIn } from './pages/signin.js';
import { Tables } from './pages/tables.js';
import { Topic } from './pages/topic.js';
import { Topics } from './pages/topics.js';
import { Toasts } from './ui/dialog.js';
import { Icon, type IconName } from './ui/icons.js';
import { Keys, Palette } from './ui/palette.js';
import { Empty } from './ui/parts.js';

const nav: readonly (readonly [page: string, name: string, icon: IconName])[] = [
  ['', 'Overview', 'overview'],
  ['topics', 'Topics', 'topics'],
  ['tables', 'Tables', 'tables'],
  ['sessions', 'Sessions', 'sessions'],
  ['health', 'Health', 'health'],
  ['docs', 'Docs', 'docs'],
];

function Page() {
  const { path } = route.value;
  const [page, name, part] = path;
  switch (page) {
    case undefined:
      return <Overview />;
    case 'topics':
      return name ? <Topic key={name} name={name} /> : <Topics />;
    case 'tables':
      return <Tables />;
    case 'sessions':
      return <Sessions />;
    case 'health':
      return <Health />;
    case 'docs':
      return <Docs name={name} part={part} />;
    default:
      return (
        <Empty icon="search" title="There is no such page">
          <a href="#/">Back to the overview</a>
        </Empty>
      );
  }
}

const nextTheme: Record<Theme, Theme> = { system: 'light', light: 'dark', dark: 'system' };
const themeIcon: Record<Theme, IconName> = { system: 'system', light: 'sun', dark: 'moon' };

function Side() {
  const current = route.value.path[0] ?? '';
  const who = me.value;
  return (
    <aside class="side">
      <a class="brand" href="#/" aria-label="pgcast: the overview">
        <svg width="22" height="22" viewBox="0 0 24 24" fill="none" stroke-width="2" stroke-linecap="round" aria-hidden="true">
          <path class="brand-lines" d="M2.5 7h8.5M2.5 12h6M2.5 17h8.5" />
          <circle class="brand-dot" cx="13" cy="12" r="2" />
          <path class="brand-waves" d="M16 8.6a4.8 4.8 0 0 1 0 6.8M18.9 5.7a8.9 8.9 0 0 1 0 12.6" />
        </svg>
        <span>pgcast</span>
      </a>
      <nav aria-label="Console">
        {nav.map(([page, name, icon]) => (
          <a key={page} href={page ? link(page) : '#/'} aria-current={page === current ? 'page' : undefined}>
            <Icon name={icon} size={18} />
            <span>{name}</span>
          </a>
        ))}
      </nav>
      <div class="side-foot">
        <button type="button" class="side-button" title="Go to…" onClick={() => (sheet.value = 'palette')}>
          <Icon name="search" />
          <span>Go to…</span>
          <kbd aria-hidden="true">Ctrl K</kbd>
        </button>
        <div class="side-row">
          <button type="button" class="icon-button" onClick={() => choose(nextTheme[theme.value])}
            aria-label={`Theme: ${theme.value}. Switch to ${nextTheme[theme.value]}`} title={`Theme: ${theme.value}`}>
            <Icon name={themeIcon[theme.value]} />
          </button>
          <button type="button" class="icon-button keys-button" onClick={() => (sheet.value = 'keys')} aria-label="Keys" title="Keys (?)">
            <Icon name="help" />
          </button>
          {token.value && (
            <button type="button" class="icon-button" aria-label="Sign out" title="Sign out"
              onClick={() => {
                keepToken('');
                if (me.value) me.value = { ...me.value, signedIn: false };
              }}>
              <Icon name="out" />
            </button>
          )}
        </div>
        {who && (
          <dl class="side-facts">
            <div>
              <dt>Version</dt>
              <dd>{who.version}</dd>
            </div>
            <div>
              <dt>Database</dt>
              <dd title={who.database}>{who.database}</dd>
            </div>
          </dl>
        )}
      </div>
    </aside>
  );
}

/** How long there may be no connection before that is told, in milliseconds: after there was one, and at first. */
const patience = { after: 1000, first: 5000 };

/** What the connections do, as long as that is not as it should be. */
function ConnectionBar() {
  const state = status.value;
  const gone = lost.value;
  const long = gone && now.value - gone.at >= (gone.before ? patience.after : patience.first);
  let words = '';
  let tone = 'warn';
  if (away.value) words = `${away.value} Trying again…`;
  else if (state?.state === 'refused') {
    words = `The live connection was refused${state.error ? `: ${state.error.message}` : ''}.`;
    tone = 'bad';
  } else if (state?.state === 'offline') words = 'There is no network. The stream goes on where it was when there is one.';
  else if (state?.state === 'connecting' && long) {
    const wait = state.retryAt ? Math.ceil((state.retryAt - now.value) / 1000) : 0;
    words = `${gone.before ? 'Reconnecting' : 'Connecting'}…${wait > 1 ? ` Next attempt in ${duration(wait)}.` : ''}${gone.before ? ' The stream goes on where it was.' : ''}`;
  } else if (state?.degraded.length) words = `Degraded: ${state.degraded.join(', ')} cannot be reached by the server.`;
  return (
    <div class="connection" role="status" aria-live="polite">
      {words && (
        <p class={tone}>
          <span class="pulse" aria-hidden="true" />
          {words}
        </p>
      )}
    </div>
  );
}

/** The whole console. */
export function App() {
  useEffect(() => {
    let timer: ReturnType<typeof setTimeout>;
    const look = () => {
      lookWhoIAm().catch(() => {
        timer = setTimeout(look, 1000); // the bar says that nobody answers
      });
    };
    look();
    return () => clearTimeout(timer);
  }, []);
  // Pages that ask but once, as the docs do, would never learn that the server is there again.
  useEffect(() => {
    if (!away.value || !me.value) return;
    const timer = setInterval(() => void lookWhoIAm().catch(() => {}), 2000);
    return () => clearInterval(timer);
  }, [away.value, !me.value]);
  useEffect(() => {
    if (me.value?.signedIn) realtime();
  }, [me.value?.signedIn]);
  // A part of a page of the docs is gone to by that page: only another page begins at its top.
  useEffect(() => {
    const name = nav.find(([page]) => page === (route.value.path[0] ?? ''))?.[1] ?? 'Console';
    const about = route.value.path[1];
    document.title = `${about && route.value.path[0] === 'topics' ? about : name} · pgcast`;
    document.querySelector('main')?.scrollTo(0, 0);
    scrollTo(0, 0);
  }, [route.value.path.slice(0, 2).join('/')]);

  const who = me.value;
  return (
    <div class={`app ${dark.value ? 'is-dark' : 'is-light'}`}>
      <a class="skip" href="#main" onClick={(event) => {
        event.preventDefault();
        document.getElementById('main')?.focus();
      }}>
        Skip to the content
      </a>
      {who && !who.signedIn ? (
        <>
          <ConnectionBar />
          <SignIn />
        </>
      ) : (
        <>
          <Side />
          <div class="body">
            <ConnectionBar />
            <main id="main" tabIndex={-1}>{who ? <Page /> : <div class="waiting" aria-busy="true" />}</main>
          </div>
        </>
      )}
      {sheet.value === 'palette' && who?.signedIn && <Palette />}
      {sheet.value === 'keys' && <Keys />}
      <Toasts />
    </div>
  );
}
