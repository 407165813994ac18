/**
 * What counts as a fault: an error that does not come from the package, or text that would steer a terminal.
 *
 * @module
 */

import { XQuantError } from '../../src/errors.js';
import { enter, type Family } from './doors.js';

/** How an input was answered: the class of the error, or `'accepted'`. */
export type Answer = string;

/** An input that was answered wrongly. */
export class Fault extends Error {
  override readonly name = 'Fault';
}

/**
 * Tries one input.
 *
 * @returns how it was answered
 * @throws {Fault} if it was answered wrongly
 */
export async function judge(family: Family, bytes: Uint8Array): Promise<Answer> {
  try {
    await enter(family, bytes);
    return 'accepted';
  } catch (error) {
    assertOwnError(error);
    return (error as Error).name;
  }
}

/**
 * Requires an error that the package threw on purpose: one of its classes, or a plain `TypeError` or `RangeError`
 * that begins with the name of an argument, as all of the package's do.
 *
 * @throws {Fault} with the stack of the foreign error
 */
export function assertOwnError(error: unknown): void {
  const own = error instanceof XQuantError;
  const argument =
    (error instanceof TypeError || error instanceof RangeError) && /^"[^"]+"/.test(error.message);
  if (!own && !argument) {
    const stack = error instanceof Error ? (error.stack ?? error.message) : String(error);
    throw new Fault(`not an error of the package: ${stack.slice(0, 1500)}`, { cause: error });
  }
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what must not be there
  const control = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/.exec(
    (error as Error).message,
  );
  if (control) {
    const code = control[0].codePointAt(0)?.toString(16);
    throw new Fault(
      `the message has control character U+${code}: ${JSON.stringify((error as Error).message)}`,
    );
  }
}
