/** Whether a name is a pattern: one of its segments is * or **. */
export const isPattern = (name: string): boolean => /(^|:)\*\*?(:|$)/.test(name);

/** Whether there may be a topic that both names, topics or patterns, select. */
export function overlaps(a: string, b: string): boolean {
  const x = a.split(':');
  const y = b.split(':');
  for (let i = 0; i < x.length && i < y.length; i++) {
    const both = [x[i], y[i]];
    if (both.includes('**')) return true;
    if (x[i] !== y[i] && !both.includes('*')) return false;
  }
  return x.length === y.length;
}
