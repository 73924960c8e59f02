import type { ComponentChildren } from 'preact';

const paths = {
  overview: <path d="M2 13.5h12M3.5 11V8M6.5 11V4M9.5 11V6.5M12.5 11V2.5" />,
  topics: <path d="M2 4h7M2 8h4M2 12h7M12.2 5.2a4 4 0 0 1 0 5.6M9.6 8h.01" />,
  tables: <path d="M2.5 3h11v10h-11zM2.5 6.5h11M2.5 9.8h11M6.2 6.5V13" />,
  sessions: <path d="M6 7.5a2.4 2.4 0 1 0 0-4.8 2.4 2.4 0 0 0 0 4.8zM1.7 13.3c.3-2.4 2-3.8 4.3-3.8s4 1.4 4.3 3.8M10.4 3a2.3 2.3 0 0 1 0 4.4M12 9.9c1.4.5 2.2 1.7 2.4 3.4" />,
  health: <path d="M1.5 8h3l1.8-4.5 3 9L11.2 8h3.3" />,
  docs: <path d="M3 2.5h6.5L13 6v7.5H3zM9.3 2.7V6H13M5.5 8.8h5M5.5 11.2h3.5" />,
  search: <path d="M7 11.5a4.5 4.5 0 1 0 0-9 4.5 4.5 0 0 0 0 9zM10.5 10.5l3.3 3.3" />,
  pause: <path d="M5.5 3.5v9M10.5 3.5v9" />,
  play: <path d="M5 3.2v9.6L12.5 8z" />,
  up: <path d="M8 13V3.5M4 7.3l4-4 4 4" />,
  close: <path d="M4 4l8 8M12 4l-8 8" />,
  copy: <path d="M6 5.5h7.5V14H6zM3.5 10.5h-1V2H10v1.5" />,
  check: <path d="M3 8.5l3.2 3.2L13 4.8" />,
  right: <path d="M6 3.5L10.5 8 6 12.5" />,
  left: <path d="M10 3.5L5.5 8l4.5 4.5" />,
  sun: <path d="M8 11a3 3 0 1 0 0-6 3 3 0 0 0 0 6zM8 1.5v1M8 13.5v1M1.5 8h1M13.5 8h1M3.4 3.4l.7.7M11.9 11.9l.7.7M3.4 12.6l.7-.7M11.9 4.1l.7-.7" />,
  moon: <path d="M13.3 9.7A5.7 5.7 0 0 1 6.3 2.7a5.7 5.7 0 1 0 7 7z" />,
  system: <path d="M2 3h12v8H2zM5.5 13.5h5M8 11v2.5" />,
  key: <path d="M5.5 13a2.8 2.8 0 1 0 0-5.6 2.8 2.8 0 0 0 0 5.6zM7.5 8.2L13 2.7M11 4.7l1.8 1.8" />,
  out: <path d="M6 2.5H3v11h3M7 8h7M11 4.8L14.2 8 11 11.2" />,
  refresh: <path d="M13 3v3.5H9.5M3 13V9.5h3.5M12.7 6.3A5 5 0 0 0 3.9 5M3.3 9.7a5 5 0 0 0 8.8 1.3" />,
  help: <path d="M5.8 6a2.2 2.2 0 1 1 3.2 2c-.7.4-1 .8-1 1.5M8 12h.01M8 14.5a6.5 6.5 0 1 0 0-13 6.5 6.5 0 0 0 0 13z" />,
  history: <path d="M2.5 8a5.5 5.5 0 1 0 1.7-4M2.5 2.5V5H5M8 5v3.3l2.2 1.3" />,
  send: <path d="M14 2L7 9M14 2l-4.5 12L7 9 2 6.5z" />,
  more: <path d="M3.5 8h.01M8 8h.01M12.5 8h.01" />,
  ok: <path d="M8 14.5a6.5 6.5 0 1 0 0-13 6.5 6.5 0 0 0 0 13zM5.3 8.3l1.9 1.9 3.6-4" />,
  warn: <path d="M8 2L14.5 13.5h-13zM8 6.5v3.2M8 11.7h.01" />,
  fail: <path d="M8 14.5a6.5 6.5 0 1 0 0-13 6.5 6.5 0 0 0 0 13zM5.7 5.7l4.6 4.6M10.3 5.7l-4.6 4.6" />,
  note: <path d="M8 14.5a6.5 6.5 0 1 0 0-13 6.5 6.5 0 0 0 0 13zM8 7.3v3.7M8 5h.01" />,
  skip: <path d="M8 14.5a6.5 6.5 0 1 0 0-13 6.5 6.5 0 0 0 0 13zM5 8h6" />,
} satisfies Record<string, ComponentChildren>;

export type IconName = keyof typeof paths;

/** A drawing of 16 by 16 in the colour of the text. It says nothing to readers of screens: the words beside it do. */
export function Icon({ name, size = 16 }: { name: IconName; size?: number }) {
  return (
    <svg class="icon" width={size} height={size} viewBox="0 0 16 16" fill="none" stroke="currentColor" stroke-width="1.4"
      stroke-linecap="round" stroke-linejoin="round" aria-hidden="true">
      {paths[name]}
    </svg>
  );
}
