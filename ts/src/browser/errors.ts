/**
 * Errors across the border of a worker. A structured clone of an error loses its class and fields; here they
 * are taken apart on one side and put together on the other.
 *
 * @module
 */

import * as known from '../errors.js';
import { StorageError } from './storage.js';

/** An error in parts that `postMessage` can carry. */
export interface PortableError {
  readonly name: string;
  readonly message: string;
  readonly stack?: string;
  /** Own properties: `code`, `path`, `layer` and the like. */
  readonly fields: Readonly<Record<string, unknown>>;
}

const CLASSES: Readonly<Record<string, { readonly prototype: Error }>> = {
  ...Object.fromEntries(
    Object.entries(known).filter(([name]) => name.endsWith('Error')) as [string, { prototype: Error }][],
  ),
  StorageError,
  TypeError,
  RangeError,
};

/** Takes an error apart. What cannot be cloned is left out. */
export function toPortable(error: unknown): PortableError {
  if (!(error instanceof Error)) return { name: 'Error', message: String(error), fields: {} };
  const fields: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(error)) {
    if (typeof value === 'function') continue;
    try {
      fields[key] = structuredClone(value);
    } catch {
      // A field that only means something on the other side.
    }
  }
  return { name: error.name, message: error.message, stack: error.stack, fields };
}

/** Puts an error together: of the same class, with the same fields. */
export function fromPortable({ name, message, stack, fields }: PortableError): Error {
  if (!Object.hasOwn(CLASSES, name)) {
    const plain = new Error(message);
    plain.name = name;
    return Object.assign(plain, fields);
  }
  const error = Object.create(CLASSES[name].prototype) as Error;
  const hidden = { writable: true, configurable: true };
  Object.defineProperty(error, 'message', { ...hidden, value: message });
  Object.defineProperty(error, 'stack', { ...hidden, value: stack });
  return Object.assign(error, fields);
}
