/**
 * Runs before the page is drawn, so that it does not flash in the other theme.
 *
 * @module
 */

import { applyTheme, storedTheme } from './theme.js';

applyTheme(storedTheme());
