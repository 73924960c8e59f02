import { useSignal } from '@preact/signals';
import { useEffect, useRef } from 'preact/hooks';
import type { DocsIndex, DocsPage } from '../api.js';
import { usePoll } from '../poll.js';
import { link } from '../router.js';
import { still } from '../prefs.js';
import { Empty, Problem, Search, Skeleton } from '../ui/parts.js';

/** The docs, as they came with this server. */
export function Docs({ name, part }: { name?: string; part?: string }) {
  const index = usePoll<DocsIndex>('docs', 0);
  const search = useSignal('');
  const groups = index.data.value?.groups;
  const first = groups?.[0]?.pages[0]?.name;
  const wanted = name ?? first;
  const found = groups
    ?.map((g) => ({ ...g, pages: g.pages.filter((p) => p.title.toLowerCase().includes(search.value.toLowerCase())) }))
    .filter((g) => g.pages.length);
  return (
    <div class="docs">
      <nav class="docs-list" aria-label="Docs">
        <h1>Docs</h1>
        <Search label="Search titles" value={search.value} set={(v) => (search.value = v)} />
        <Problem error={index.error.value} again={index.refresh} />
        {!found && <Skeleton lines={12} width="80%" />}
        {found && !found.length && <p class="dim">No title has “{search.value}”.</p>}
        <label class="docs-choice field">
          <span class="hidden">Page</span>
          <select value={wanted} onChange={(e) => (location.hash = link('docs', e.currentTarget.value))}>
            {groups?.map((g) => (
              <optgroup key={g.title} label={g.title}>
                {g.pages.map((p) => <option key={p.name} value={p.name}>{p.title}</option>)}
              </optgroup>
            ))}
          </select>
        </label>
        {found?.map((g) => (
          <section key={g.title}>
            <h2>{g.title}</h2>
            <ul>
              {g.pages.map((p) => (
                <li key={p.name}>
                  <a href={link('docs', p.name)} aria-current={p.name === wanted ? 'page' : undefined}>{p.title}</a>
                </li>
              ))}
            </ul>
          </section>
        ))}
      </nav>
      {wanted ? <Text key={wanted} name={wanted} part={part} /> : <div class="docs-page" />}
    </div>
  );
}

function Text({ name, part }: { name: string; part?: string }) {
  const { data, error, refresh } = usePoll<DocsPage>(`docs/${encodeURIComponent(name)}`, 0);
  const box = useRef<HTMLElement>(null);
  const page = data.value;
  useEffect(() => {
    const element = box.current;
    if (!page || !element) return;
    for (const pre of element.querySelectorAll<HTMLElement>('pre')) {
      pre.tabIndex = 0;
      pre.setAttribute('role', 'group'); // not a region: a page has many of them
      pre.setAttribute('aria-label', 'Code');
    }
    // Markdown's tables have a head, also where a column has no name.
    for (const th of element.querySelectorAll('th')) if (!th.textContent?.trim()) th.replaceWith(document.createElement('td'));
    for (const table of element.querySelectorAll('table')) {
      if (table.parentElement?.classList.contains('scroll')) continue;
      const frame = document.createElement('div');
      frame.className = 'scroll';
      frame.tabIndex = 0;
      frame.setAttribute('role', 'group');
      frame.setAttribute('aria-label', 'Table');
      table.replaceWith(frame);
      frame.append(table);
    }
  }, [page]);
  useEffect(() => {
    if (!page || !part) return;
    const heading = box.current?.querySelector<HTMLElement>(`#${CSS.escape(part)}`);
    heading?.scrollIntoView({ block: 'start', behavior: still.matches ? 'auto' : 'smooth' });
  }, [page, part]);
  if (error.value) {
    return (
      <div class="docs-page">
        <Problem error={error.value} again={refresh} />
        <Empty icon="docs" title="This page could not be read">
          <a href={link('docs')}>All pages</a>
        </Empty>
      </div>
    );
  }
  const headings = page?.headings.filter((h) => h.level === 2 || h.level === 3) ?? [];
  return (
    <>
      {page ? (
        // The server renders the docs that are embedded in it, without raw HTML.
        <article ref={box} class="docs-page prose" dangerouslySetInnerHTML={{ __html: page.html }} />
      ) : (
        <div class="docs-page prose" aria-busy="true"><Skeleton width="40%" /><Skeleton lines={8} width="100%" /></div>
      )}
      {headings.length > 1 ? (
        <nav class="docs-toc" aria-label="On this page">
          <h2>On this page</h2>
          <ul>
            {headings.map((h) => (
              <li key={h.id} class={`level-${h.level}`}>
                <a href={link('docs', name, h.id)} aria-current={h.id === part ? 'location' : undefined}>{h.text}</a>
              </li>
            ))}
          </ul>
        </nav>
      ) : <div />}
    </>
  );
}
