/**
 * Whose fault an error of a pass is: the caller's, the package's on purpose, or a mistake inside.
 *
 * @module
 */

import { KernelError, XQuantError } from '../errors.js';
import type { WasmForwardOptions } from './pass-context.js';
import { TRAPPED } from './team.js';

/**
 * Whether an error comes from inside: a trap of a kernel (a pointer outside the memory), or a mistake of ours. Errors
 * that the package throws on purpose leave everything as it was.
 */
export function isInternal(error: unknown): boolean {
  if (error instanceof KernelError) return error.kernel === TRAPPED;
  return !(error instanceof XQuantError);
}

/** Tells errors that the caller of a pass has thrown: by a signal, or in its own function. */
export class CallerErrors {
  /** The options of the pass, watched. */
  readonly options: WasmForwardOptions;
  readonly #signal: AbortSignal | undefined;
  #thrown: { readonly error: unknown } | undefined;

  constructor(options: WasmForwardOptions) {
    const { onTensor, onFreshKeysAndValues, signal } = options;
    this.#signal = signal;
    this.options = {
      ...options,
      onTensor: onTensor && this.#watched(onTensor),
      onFreshKeysAndValues: onFreshKeysAndValues && this.#watched(onFreshKeysAndValues),
    };
  }

  /** Whether an error is one of the caller's. */
  threw(error: unknown): boolean {
    return this.#thrown?.error === error || (this.#signal?.aborted === true && this.#signal.reason === error);
  }

  #watched<T extends unknown[]>(use: (...args: T) => void): (...args: T) => void {
    return (...args) => {
      try {
        use(...args);
      } catch (error) {
        this.#thrown = { error };
        throw error;
      }
    };
  }
}
