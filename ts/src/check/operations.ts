/**
 * The table of everything that can be checked: operation -> tensors, options, reference.
 *
 * @module
 */

import { ConfigError } from '../errors.js';
import { CACHE_OPERATIONS } from './cache-operations.js';
import { MODEL_OPERATIONS } from './model-operations.js';
import type { Operation } from './operation.js';
import { STORAGE_OPERATIONS } from './storage-operations.js';

/** Every operation, from the smallest to whole models. */
export const OPERATIONS: readonly Operation[] = [
  ...STORAGE_OPERATIONS,
  ...CACHE_OPERATIONS,
  ...MODEL_OPERATIONS,
];

/**
 * The operation of a name.
 *
 * @throws {ConfigError} if there is none; the message lists all
 */
export function findOperation(name: string): Operation {
  const found = OPERATIONS.find((operation) => operation.name === name);
  if (!found)
    throw new ConfigError('operation', name, `one of ${OPERATIONS.map((each) => each.name).join(', ')}`);
  return found;
}
