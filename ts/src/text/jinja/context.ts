/**
 * The rendering as filters, tests and functions see it.
 *
 * @module
 */

import type { Budget } from './budget.js';
import type { Arguments, Value } from './values.js';

/** One rendering. */
export interface Context {
  readonly budget: Budget;
  /** What `strftime_now` calls now. */
  readonly now: Date;
  /** Applies a filter by name. */
  filter(name: string, value: Value, args: Arguments): Value;
  /** Applies a test by name. */
  test(name: string, value: Value, args: Arguments): boolean;
}
