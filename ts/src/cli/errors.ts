/**
 * Exit codes, and errors as a line for people.
 *
 * @module
 */

import { CommanderError } from 'commander';
import { ConfigError } from '../errors.js';

/** Exit code of the process. */
export const EXIT = {
  ok: 0,
  /** Something went wrong: a file, the model, the disk. */
  failed: 1,
  /** The command was not a valid one: an unknown option, a value outside its range, a cache that does not exist. */
  usage: 2,
  /** Ctrl-C: 128 + SIGINT. */
  interrupted: 130,
  /** 128 + SIGTERM. */
  terminated: 143,
} as const;

/** The command line itself is at fault. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
}

/** Why a command was stopped from outside, as reason of its signal. */
export class Interruption extends Error {
  override readonly name = 'Interruption';

  constructor(
    /** Exit code of the process. */
    readonly exitCode: number,
  ) {
    super('interrupted');
  }
}

/**
 * Runs a check of what the user typed; what it throws becomes a {@link UsageError}.
 *
 * @throws {UsageError}
 */
export function usage<T>(check: () => T): T {
  try {
    return check();
  } catch (cause) {
    if (cause instanceof ConfigError || cause instanceof RangeError || cause instanceof TypeError) {
      throw new UsageError(cause.message, { cause });
    }
    throw cause;
  }
}

/** The exit code of an error. */
export function exitCodeOf(error: unknown): number {
  if (error instanceof Interruption) return error.exitCode;
  if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.ok : EXIT.usage;
  // A ConfigError is about an option or argument wherever it is found out, for instance when the model is known.
  if (error instanceof UsageError || error instanceof ConfigError) return EXIT.usage;
  return EXIT.failed;
}

/**
 * An error as one line, or with `verbose` with stack and causes.
 *
 * @returns ends with a newline
 */
export function formatError(error: unknown, verbose: boolean): string {
  if (!(error instanceof Error)) return `xquant: ${String(error)}\n`;
  const message = error.message.replace(/^error: /, '').replace(/\s*\n\s*/g, ' ');
  const line = `xquant: ${message || error.name}\n`;
  if (!verbose) return line;
  let details = '';
  for (let cause: unknown = error; cause instanceof Error; cause = cause.cause) details += `${cause.stack}\n`;
  return line + details;
}
