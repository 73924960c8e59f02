// Runs before the first paint, so that the page never flashes in the other theme.
try {
  const kept = localStorage.getItem('pgcast.console.theme');
  if (kept === 'light' || kept === 'dark') document.documentElement.dataset.theme = kept;
} catch {
  // Storage may be forbidden: then the system's theme it is.
}
