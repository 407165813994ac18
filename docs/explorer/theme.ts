/**
 * The theme that was chosen on the other pages of the site, before anything is drawn.
 *
 * @module
 */

/** Where TypeDoc's pages keep it: `os`, `light` or `dark`. */
const KEY = 'tsd-theme';

/** The chosen theme. A browser that keeps nothing for this page has none. */
export function storedTheme(): string {
  try {
    return localStorage.getItem(KEY) ?? 'os';
  } catch {
    return 'os';
  }
}

/** Applies a theme. */
export function applyTheme(theme: string): void {
  if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
}

/** Applies and keeps a theme. */
export function chooseTheme(theme: string): void {
  applyTheme(theme);
  try {
    localStorage.setItem(KEY, theme);
  } catch {
    // It holds for this visit.
  }
}
