/**
 * The limits of a template. A template is a program from a file of somebody else, and it runs in the thread that
 * answers Ctrl-C, so everything that a program can do without end is counted: steps, text, nesting and time.
 *
 * @module
 */

import { TemplateError } from './errors.js';

/** Limits of one rendering. The defaults are a thousand times what the templates of published models need. */
export interface BudgetLimits {
  /** Statements, expressions, and elements of lists that are made or looked at. */
  readonly steps: number;
  /** UTF-16 code units of all text that is made, intermediate results included. */
  readonly text: number;
  /** Calls of macros inside each other. */
  readonly calls: number;
  readonly milliseconds: number;
}

/** Used unless a caller says otherwise. */
const DEFAULT_LIMITS: BudgetLimits = {
  steps: 5_000_000,
  text: 2 ** 27,
  calls: 100,
  milliseconds: 2000,
};

/** How many steps pass between two looks at the clock. */
const CLOCK_INTERVAL = 4096;

/** Counts down; every method throws when something is used up. */
export class Budget {
  #steps: number;
  #text: number;
  #calls: number;
  #untilClock = CLOCK_INTERVAL;
  readonly #deadline: number;
  readonly #limits: BudgetLimits;

  constructor(limits: BudgetLimits = DEFAULT_LIMITS) {
    this.#limits = limits;
    this.#steps = limits.steps;
    this.#text = limits.text;
    this.#calls = limits.calls;
    this.#deadline = performance.now() + limits.milliseconds;
  }

  /** Takes `count` steps, before they are done. */
  step(count = 1): void {
    this.#steps -= count;
    if (!(this.#steps >= 0)) throw exhausted(`more than ${this.#limits.steps} steps`);
    this.#untilClock -= count;
    if (this.#untilClock > 0) return;
    this.#untilClock = CLOCK_INTERVAL;
    if (performance.now() > this.#deadline) throw exhausted(`more than ${this.#limits.milliseconds} ms`);
  }

  /** Takes text of a length, before it is made. */
  text(length: number): void {
    this.#text -= length;
    if (!(this.#text >= 0)) throw exhausted(`more than ${this.#limits.text} characters of text`);
    this.step(length >>> 6);
  }

  /** Runs a call of a macro, one level deeper. */
  call<T>(run: () => T): T {
    if (this.#calls === 0) throw exhausted(`calls nested over ${this.#limits.calls} deep`);
    this.#calls--;
    try {
      return run();
    } finally {
      this.#calls++;
    }
  }
}

function exhausted(what: string): TemplateError {
  return new TemplateError('BudgetError', `the template needs ${what}`);
}
