/** Whether a name is a pattern: one of its segments is * or **. */
export function isPattern(name: string): boolean {
  return name.split(':').some((segment) => segment === '*' || segment === '**');
}

/** Whether there may be a topic that both names, topics or patterns, select. */
export function overlaps(a: string, b: string): boolean {
  const x = a.split(':');
  const y = b.split(':');
  for (let i = 0; i < x.length && i < y.length; i++) {
    if (x[i] === '**' || y[i] === '**') return true;
    if (x[i] !== y[i] && x[i] !== '*' && y[i] !== '*') return false;
  }
  return x.length === y.length;
}
