// Runs before the first paint, or the page would flash in the other theme.
(() => {
  let theme = null
  try {
    theme = localStorage.getItem('pgcast-theme')
  } catch {
    // Storage is forbidden: the system's theme it is.
  }
  if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme
})()
