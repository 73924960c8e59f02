import { signal } from '@preact/signals';

export type Theme = 'system' | 'light' | 'dark';
const key = 'pgcast.console.theme';

function kept(): Theme {
  const value = document.documentElement.dataset.theme;
  return value === 'light' || value === 'dark' ? value : 'system';
}

/** The theme somebody chose. */
export const theme = signal<Theme>(kept());
const system = matchMedia('(prefers-color-scheme: dark)');
/** Whether it is dark now, by choice or by the system. */
export const dark = signal(false);
const settle = () => {
  dark.value = theme.value === 'dark' || (theme.value === 'system' && system.matches);
};
settle();
system.addEventListener('change', settle);

/** Chooses a theme, and remembers it. */
export function choose(value: Theme): void {
  theme.value = value;
  const root = document.documentElement;
  if (value === 'system') delete root.dataset.theme;
  else root.dataset.theme = value;
  try {
    if (value === 'system') localStorage.removeItem(key);
    else localStorage.setItem(key, value);
  } catch {
    // Not remembered where storage is forbidden.
  }
  settle();
}

/** Whether somebody asked for less motion. */
export const still = matchMedia('(prefers-reduced-motion: reduce)');
/** Whether the page is as narrow as a phone. */
export const narrow = signal(false);
const phone = matchMedia('(max-width: 720px)');
const measure = () => {
  narrow.value = phone.matches;
};
measure();
phone.addEventListener('change', measure);
