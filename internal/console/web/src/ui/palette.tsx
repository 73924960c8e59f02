import { useSignal } from '@preact/signals';
import { useEffect, useRef } from 'preact/hooks';
import type { DocsIndex, Topics } from '../api.js';
import { read } from '../http.js';
import { places, sheet } from '../keys.js';
import { link } from '../router.js';
import { Dialog } from './dialog.js';

interface Hit {
  name: string;
  kind: string;
  to: string;
}

let docs: Promise<Hit[]> | undefined;
const allDocs = () =>
  (docs ??= read<DocsIndex>('docs').then(
    (index) => index.groups.flatMap((g) => g.pages.map((p) => ({ name: p.title, kind: 'Docs', to: link('docs', p.name) }))),
    () => {
      docs = undefined;
      return [];
    },
  ));

/** Goes anywhere by a few letters: pages, topics, docs. */
export function Palette() {
  const text = useSignal('');
  const hits = useSignal<Hit[]>([]);
  const at = useSignal(0);
  const list = useRef<HTMLUListElement>(null);

  useEffect(() => {
    const stop = new AbortController();
    const wanted = text.value.trim().toLowerCase();
    const fits = (hit: Hit) => hit.name.toLowerCase().includes(wanted);
    const pages = places.map(([, page, name]) => ({ name, kind: 'Page', to: page ? link(page) : '#/' }));
    at.value = 0;
    hits.value = pages.filter(fits);
    const timer = setTimeout(async () => {
      const [topics, words] = await Promise.all([
        read<Topics>(`topics?limit=8&search=${encodeURIComponent(wanted)}`, stop.signal).then((t) => t.topics, () => []),
        allDocs(),
      ]);
      if (stop.signal.aborted) return;
      hits.value = [
        ...pages.filter(fits),
        ...topics.map((t) => ({ name: t.name, kind: 'Topic', to: link('topics', t.name) })),
        ...(wanted ? words.filter(fits).slice(0, 6) : []),
      ];
    }, 120);
    return () => {
      clearTimeout(timer);
      stop.abort();
    };
  }, [text.value]);

  const close = () => (sheet.value = '');
  const enter = (hit: Hit | undefined) => {
    if (!hit) return;
    close();
    location.hash = hit.to;
  };
  const step = (by: number) => {
    at.value = Math.max(0, Math.min(hits.value.length - 1, at.value + by));
    list.current?.children[at.value]?.scrollIntoView({ block: 'nearest' });
  };
  return (
    <Dialog title="Go to" close={close} kind="palette">
      <input
        data-first
        type="text"
        role="combobox"
        aria-label="Go to a page, a topic or the docs"
        aria-expanded="true"
        aria-controls="palette-hits"
        aria-activedescendant={hits.value.length ? `hit-${at.value}` : undefined}
        placeholder="A page, a topic, the docs…"
        autocomplete="off"
        spellcheck={false}
        value={text.value}
        onInput={(event) => (text.value = event.currentTarget.value)}
        onKeyDown={(event) => {
          if (event.key === 'ArrowDown') step(1);
          else if (event.key === 'ArrowUp') step(-1);
          else if (event.key === 'Enter') enter(hits.value[at.value]);
          else return;
          event.preventDefault();
        }}
      />
      <ul id="palette-hits" ref={list} role="listbox" aria-label="Found">
        {hits.value.map((hit, i) => (
          <li key={hit.to} id={`hit-${i}`} role="option" aria-selected={i === at.value} onClick={() => enter(hit)}
            onPointerMove={() => (at.value = i)}>
            <span class="hit-name">{hit.name}</span>
            <span class="dim">{hit.kind}</span>
          </li>
        ))}
        {!hits.value.length && <li role="option" aria-selected="false" aria-disabled="true" class="dim">Nothing found</li>}
      </ul>
    </Dialog>
  );
}

const keys: readonly (readonly [combination: readonly string[], words: string])[] = [
  ...places.map(([key, , name]): [string[], string] => [['g', key], name]),
  [['Ctrl', 'K'], 'Go to anything'],
  [['/'], 'Search on this page'],
  [['p'], 'Stream: pause, go on'],
  [['j'], 'Stream: older event'],
  [['k'], 'Stream: newer event'],
  [['Esc'], 'Close'],
  [['?'], 'This sheet'],
];

/** The sheet of keys. */
export function Keys() {
  return (
    <Dialog title="Keys" close={() => (sheet.value = '')} kind="keys">
      <dl>
        {keys.map(([combination, words]) => (
          <div key={words}>
            <dt>
              {combination.map((key) => (
                <kbd key={key}>{key}</kbd>
              ))}
            </dt>
            <dd>{words}</dd>
          </div>
        ))}
      </dl>
    </Dialog>
  );
}
